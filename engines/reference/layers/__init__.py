"""The layers of a decoder, each on the ranks that hold it."""
