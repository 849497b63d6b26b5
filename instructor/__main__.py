"""`python -m instructor` lists the commands for staff; `COMMAND --help` explains one."""

import sys

from instructor.door import main

if __name__ == "__main__":
    main(sys.argv[1:])
