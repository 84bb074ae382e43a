"""Before a long run: `doctor` says what would stop or spoil it, `plan` estimates what every stage will take."""
