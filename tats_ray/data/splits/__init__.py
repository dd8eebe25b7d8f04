"""Readers of the official split files of labelled sets: which videos a part holds, and what each shows."""
