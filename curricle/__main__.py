"""`python -m curricle` is `curricle`."""

from curricle.cli import main

if __name__ == "__main__":
    main()
