"""`python -m jaxem`: the command `jaxem` where it is not on the path."""

import jaxem.cli

if __name__ == "__main__":
    jaxem.cli.main()
