"""`python -m jaxem`: the command `jaxem` where it is not on the path."""

from jaxem.cli import main

if __name__ == "__main__":
    main()
