"""How each operation of a model becomes protocols: terms, and one rule an operation. No cryptography here."""
