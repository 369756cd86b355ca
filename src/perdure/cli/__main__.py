"""`python -m perdure.cli` is `perdure`."""

from perdure.cli.main import app

if __name__ == "__main__":
    app(prog_name="perdure")
