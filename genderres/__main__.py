"`python -m genderres` is the `genderres` command, e.g. for `accelerate launch -m genderres`"
from .cli import main
if __name__ == '__main__': main()
