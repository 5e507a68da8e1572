"""`python -m skeg`: the same as the command `skeg`."""

from skeg.cli import main

if __name__ == "__main__":
    main()
