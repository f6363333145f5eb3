"""The interpreters of a program: ideal, deal, offline and online."""
