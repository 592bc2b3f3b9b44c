"""`minattn fetch smollm2`: the weights of a real model, once, into the cache folder."""


def add(commands):
    """Declare the command."""
    parser = commands.add_parser("fetch", help="fetch the weights of a real model")
    parser.add_argument("name", help="smollm2")
    parser.set_defaults(run=run)


def run(options):
    """Fetch unless the weights are here and whole; say where they lie."""
    from ..models import download

    source = download.source_of(options.name)
    before = download.find(options.name)
    path = download.fetch(options.name)
    print(f"{options.name} {'was here already' if path == before else 'is here now'}: {path}")
    print(f"{path.stat().st_size / 1e6:.1f} MB on disk, sha256 as published, licence {source.licence}")
    return 0
