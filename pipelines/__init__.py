"""Entry points: parse, call one function, print where the results are."""
