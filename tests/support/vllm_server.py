"""A model server of the tests' own: vLLM's wire format over a checkpoint, by naive passes through the library alone."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support.http_server import Reply, Request, json_reply


class VllmServer:
    """The answers of a vLLM server with one model; ``old`` does not know ``logprob_token_ids``."""

    def __init__(self, folder: Path, *, old: bool = False, name: str = "tiny") -> None:
        self._model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self._processor = AutoProcessor.from_pretrained(folder)
        self._tokenizer = self._processor.tokenizer
        self._old, self._name = old, name
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        asked = request.json()
        if asked.get("model") != self._name:
            return json_reply({"error": {"message": f"The model {asked.get('model')} does not exist."}}, 404)
        with self._lock, torch.no_grad():
            if request.path == "/tokenize":
                tokens = self._ids(asked["prompt"] if "prompt" in asked else self._render(asked))
                return json_reply({"tokens": tokens, "count": len(tokens), "max_model_len": 1024})
            if request.path == "/detokenize":
                return json_reply({"prompt": self._tokenizer.decode(asked["tokens"])})
            if request.path == "/v1/chat/completions":
                return json_reply(self._complete(asked))
        return Reply(status=404)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, asked: dict[str, Any]) -> str:
        chat = []
        for message in asked["messages"]:
            parts = message["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            chat.append(
                {"role": message["role"], "content": [{**p, "type": p["type"].removesuffix("_url")} for p in parts]}
            )
        return str(
            self._processor.apply_chat_template(
                chat,
                tokenize=False,
                add_generation_prompt=asked.get("add_generation_prompt", True),
                continue_final_message=asked.get("continue_final_message", False),
            )
        )

    def _complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        text = self._render(asked)
        images = [
            PIL.Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
            for message in asked["messages"]
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] == "image_url"
        ]
        inputs = self._processor(images=images, text=[text], return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        ids = self._model.generate(**inputs, max_new_tokens=asked["max_tokens"], do_sample=False)[0, length:]
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": self._tokenizer.decode(ids, skip_special_tokens=True)},
            "logprobs": None,
            "finish_reason": "stop" if int(ids[-1]) == self._model.generation_config.eos_token_id else "length",
        }
        logs = torch.log_softmax(self._model(**inputs).logits[0].float(), dim=-1)
        if asked.get("logprobs"):
            assert asked["return_tokens_as_token_ids"]
            assert asked["max_tokens"] == 1
            first = int(ids[0])
            wanted = [] if self._old else asked["logprob_token_ids"]
            top = [*logs[-1].topk(asked["top_logprobs"]).indices.tolist(), *wanted]
            rows = [{"token": f"token_id:{t}", "logprob": float(logs[-1, t]), "bytes": None} for t in top]
            choice["logprobs"] = {
                "content": [{"token": f"token_id:{first}", "logprob": float(logs[-1, first]), "top_logprobs": rows}]
            }
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "model": self._name, "choices": [choice]}
        if "prompt_logprobs" in asked:
            prompt = inputs["input_ids"][0].tolist()
            answer["prompt_logprobs"] = [
                None,
                *(
                    {str(token): {"logprob": float(logs[place, token]), "rank": 1}}
                    for place, token in enumerate(prompt[1:])
                ),
            ]
        return answer
