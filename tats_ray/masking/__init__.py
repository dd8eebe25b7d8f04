"""Which tokens the encoder sees and which the decoder predicts: one file a strategy."""
