"""`python -m codec.cli`: the command, as launchers of several processes start it."""

from codec.cli.main import main

if __name__ == "__main__":
    main()
