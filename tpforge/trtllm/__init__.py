"""What is known of TensorRT-LLM, as data: releases, arguments, architectures, causes of failures."""
