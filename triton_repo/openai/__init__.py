"""OpenAI's and KServe's protocols before a Triton server, by NVIDIA Dynamo; installed on demand."""
