"""`python -m ebmcli` is `ebm`."""

from ebmcli.cli import main

if __name__ == "__main__":
    main()
