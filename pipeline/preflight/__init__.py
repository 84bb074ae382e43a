"""Before a long run: `doctor` finds what would stop it, `plan` estimates what it takes."""
