"""``python -m sr_quant_cli`` is ``srq``."""

from sr_quant_cli.cli.app import main

if __name__ == "__main__":
    main()
