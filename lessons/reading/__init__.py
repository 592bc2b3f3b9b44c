"""The reading form: what turns notebooks into pages. `pages.py`, one folder up, is the command.

    mathml.py    a formula: LaTeX into MathML, or an error
    render.py    a notebook: its cells into HTML, with its headings, links and pictures
    page.html    the skeleton of every page
    style.css    light and dark, narrow and wide, paper
    script.js    theme, copy buttons, folds that open for printing; the pages can be read without it
"""
