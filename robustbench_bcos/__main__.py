"""``python -m robustbench_bcos``."""

from robustbench_bcos.cli import main

if __name__ == "__main__":
    main()
