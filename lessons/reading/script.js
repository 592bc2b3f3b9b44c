// Theme, copy buttons, folds that open for printing. The pages can be read without any of it.
(() => {
  const root = document.documentElement, key = "minattn-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem(key, theme); } catch { /* then for this page only */ } };
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  // Before anything is drawn, so that no page flashes in the other theme.
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();

  function themeSwitch() {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      label();
    });
    system.addEventListener("change", label);
    button.hidden = false;
    label();
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {                                       // not offered, or not allowed, on a page opened from a file
      const area = document.createElement("textarea");
      area.value = text;
      area.style.cssText = "position: fixed; opacity: 0";
      document.body.append(area);
      area.select();
      try { return document.execCommand("copy"); } catch { return false; } finally { area.remove(); }
    }
  }

  function copyButton(box) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      button.textContent = await copy(box.querySelector("code").textContent) ? "Copied" : "Not copied";
      button.focus();
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  }

  // What scrolls sideways can be reached, and scrolled, with the keyboard.
  function reachable() {
    for (const box of document.querySelectorAll("pre, .scroll, .math.block, .view")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    themeSwitch();
    document.querySelectorAll(".code").forEach(copyButton);
    if (matchMedia("(min-width: 72rem)").matches) document.querySelectorAll(".side details").forEach((fold) => { fold.open = true; });
    document.querySelectorAll("details").forEach((fold) => fold.addEventListener("toggle", reachable));
    addEventListener("resize", reachable);
    reachable();
  });

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("main details:not([open])")];
    opened.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((fold) => { fold.open = false; }));
})();
