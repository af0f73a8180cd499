"""A stand-in for the package tensorrt_llm, put beside the model of a repository that real Triton loads.

It has the part of LLM's and SamplingParams' interface that our models use, and generates by the reference
runtime: over the rank files in the folder that `standin_engine.txt` beside it names, else in the model's own.
It is no TensorRT-LLM.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from reference import Sampling, Scheduler
from tokenizers import Tokenizer

_ENGINE = Path(__file__).with_name("standin_engine.txt")
_NAMES = ("temperature", "top_k", "top_p", "seed", "min_tokens", "repetition_penalty")
_NAMES += ("presence_penalty", "frequency_penalty")


class SamplingParams(dict):
    def __init__(self, **keywords):
        super().__init__(keywords)


class _Piece:
    def __init__(self, tokenizer):
        self.token_ids, self.finish_reason = [], None
        self.stop_reason = self.cumulative_logprob = None
        self._tokenizer = tokenizer

    @property
    def text(self):
        return self._tokenizer.decode(self.token_ids)


class _Output:
    # As in upstream's, the token that ends an answer is in it, and a token to stop at only when asked for.
    def __init__(self, scheduler, tokenizer, tokens, sampling, keeps_stop):
        self._end_id, self._keeps_stop = sampling.end_id, keeps_stop
        self.outputs, self._scheduler = [_Piece(tokenizer)], scheduler
        self.prompt_token_ids = tokens
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue()
        self._handle = scheduler.submit(tokens, sampling, self._put)

    def _put(self, event):
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def abort(self):
        self._scheduler.cancel(self._handle)

    async def aresult(self):
        async for _ in self:
            pass
        return self

    async def __aiter__(self):
        while True:
            event = await self._events.get()
            if event.error is not None:
                raise RuntimeError(event.error)
            piece = self.outputs[0]
            piece.token_ids.extend(event.token_ids)
            piece.finish_reason = event.finish_reason
            if event.finish_reason == "end_id" and self._end_id is not None:
                piece.token_ids.append(self._end_id)
            if event.finish_reason == "stop_words" and not self._keeps_stop:
                piece.token_ids.pop()
            yield self
            if event.finished:
                return


class LLM:
    def __init__(self, *, model, max_batch_size, **_arguments):
        engine = Path(_ENGINE.read_text()) if _ENGINE.exists() else Path(model).parent
        self._tokenizer = Tokenizer.from_file(str(engine / "tokenizer" / "tokenizer.json"))
        self._scheduler = Scheduler(engine, max_batch_size=max_batch_size, num_threads=1)

    def generate_async(self, inputs, params, *, streaming):
        tokens = self._tokenizer.encode(inputs).ids if isinstance(inputs, str) else inputs
        stop = [(token,) for token in params.get("stop_token_ids", ())]
        bad = [(token,) for token in params.get("bad_token_ids", ())]
        sampling = Sampling(
            max_tokens=params["max_tokens"],
            end_id=-1 if params.get("ignore_eos") else params.get("end_id"),
            stop_words=tuple(stop),
            bad_words=tuple(bad),
            **{name: params[name] for name in _NAMES if name in params},
        )
        keeps_stop = bool(params.get("include_stop_str_in_output"))
        return _Output(self._scheduler, self._tokenizer, tokens, sampling, keeps_stop)

    async def get_stats_async(self, timeout):
        # Of upstream's keys those that are asked for; the cache is as large as the tokens of all slots.
        while True:
            await asyncio.sleep(0.05)
            counts = self._scheduler.counts()
            blocks = {"maxNumBlocks": counts.max, "usedNumBlocks": counts.active, "tokensPerBlock": 32}
            yield {"numActiveRequests": counts.active, "kvCacheStats": blocks, "inflightBatchingStats": None}

    def shutdown(self):
        self._scheduler.close()
