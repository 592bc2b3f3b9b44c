"""A file is written whole or not at all."""
import os


def write_whole(path, data):
    """Write bytes to `path`; where that fails, what was there before is there still and nothing else is left."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")          # two processes may write the same file
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
