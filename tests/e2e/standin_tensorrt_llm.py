"""A stand-in for the package tensorrt_llm, put beside the model of a repository that real Triton loads.

It has the part of LLM's and SamplingParams' interface that the front uses, and generates by the reference
runtime.
It is no TensorRT-LLM.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from reference import Sampling, Scheduler

_NAMES = ("temperature", "top_k", "top_p", "seed", "min_tokens", "repetition_penalty")
_NAMES += ("presence_penalty", "frequency_penalty")


class SamplingParams(dict):
    def __init__(self, **keywords):
        super().__init__(keywords)


class _Piece:
    def __init__(self):
        self.token_ids, self.finish_reason = [], None


class _Output:
    def __init__(self, scheduler, tokens, sampling):
        self.outputs, self._scheduler = [_Piece()], scheduler
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue()
        self._handle = scheduler.submit(tokens, sampling, self._put)

    def _put(self, event):
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def abort(self):
        self._scheduler.cancel(self._handle)

    async def __aiter__(self):
        while True:
            event = await self._events.get()
            if event.error is not None:
                raise RuntimeError(event.error)
            self.outputs[0].token_ids.extend(event.token_ids)
            self.outputs[0].finish_reason = event.finish_reason
            yield self
            if event.finished:
                return


class LLM:
    def __init__(self, *, model, max_batch_size, **_arguments):
        engine = Path(model).parent
        self._scheduler = Scheduler(engine, max_batch_size=max_batch_size, num_threads=1)

    def generate_async(self, tokens, params, *, streaming):
        assert streaming
        stop = [(token,) for token in params.get("stop_token_ids", ())]
        bad = [(token,) for token in params.get("bad_token_ids", ())]
        sampling = Sampling(
            max_tokens=params["max_tokens"],
            end_id=-1 if params.get("ignore_eos") else None,
            stop_words=tuple(stop),
            bad_words=tuple(bad),
            **{name: params[name] for name in _NAMES if name in params},
        )
        return _Output(self._scheduler, tokens, sampling)

    def shutdown(self):
        self._scheduler.close()
