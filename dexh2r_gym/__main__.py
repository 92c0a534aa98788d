"""`python -m dexh2r_gym` is the command `dexh2r`."""

from dexh2r_gym.cli import main

if __name__ == "__main__":
    main()
