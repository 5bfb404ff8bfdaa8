"""Print docs/cli.md: `python -m ditscale.cli.reference > docs/cli.md`."""

from . import help

if __name__ == "__main__":
    print(help.markdown(), end="")
