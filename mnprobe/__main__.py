"""`python -m mnprobe`: the command line, also under torchrun."""

from mnprobe.cli.main import main

if __name__ == "__main__":
    main()
