"""Small random-weight models of the real classes, saved as folders, and a stand-in for a model server."""

from __future__ import annotations

import base64
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

_WORDS = """
    a an the two three cat cats dog dogs wolf wolves in of is this image what how many are there going on
    animal answer concisely riding bike washing dishes contains red ball : ? , .
"""
WORDS = _WORDS.split()
END = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def word_tokenizer(*special: str, **options: object) -> object:
    """A tokeniser whose tokens are whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate([*END.values(), *special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **END, **options)


def chat_template(picture: str, begin: str = "") -> str:
    return (
        begin + "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + picture + " {% else %}{{ part['text'] }} {% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}answer :{% endif %}"
    )


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LlavaForConditionalGeneration for 16 × 16 pictures and its processor."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = word_tokenizer("<image>", additional_special_tokens=["<image>"])
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>"),
    )
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.4}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, projection_dim=16, image_size=16, patch_size=8, **small
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),  # type: ignore[arg-type]
            hidden_size=32,
            intermediate_size=32,
            max_position_embeddings=128,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            **small,
        ),
        image_token_index=4,
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vlm") / "llava"
    model = LlavaForConditionalGeneration(config)
    model.generation_config.suppress_tokens = [4]  # to be kept: a picture is no answer
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Gemma3ForConditionalGeneration; its template writes the first token itself."""
    import torch
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    marks = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    tokenizer = word_tokenizer(*marks.values(), extra_special_tokens=marks)
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 16, "width": 16}, image_seq_length=4),
        tokenizer,
        image_seq_length=4,
        chat_template=chat_template("<boi>", begin="<s> "),
    )
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(image_size=16, patch_size=4, **small),
        text_config=Gemma3TextConfig(
            vocab_size=len(tokenizer),  # type: ignore[arg-type]
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=128,
            sliding_window=64,
            initializer_range=0.4,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            tie_word_embeddings=False,
            **small,
        ),
        image_token_index=4,
        boi_token_index=5,
        eoi_token_index=6,
        mm_tokens_per_image=4,
        initializer_range=0.4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vlm") / "gemma3"
    model = Gemma3ForConditionalGeneration(config)
    model.generation_config.suppress_tokens = [4, 5, 6]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BertModel of three layers and 40 positions. Like DeBERTa its tokeniser has no limit."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    marks = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = word_tokenizer(*marks.values(), **marks)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[attr-defined]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 4), ("[SEP]", 5)]
    )
    config = BertConfig(
        vocab_size=len(tokenizer),  # type: ignore[arg-type]
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert") / "bert"
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


CAPTIONS = (
    "a cat",
    "two dogs",
    "a dog riding a bike",
    "three wolves in this image",
    "a red ball",
    "the animal",
)


def caption_of(image: Image.Image) -> str:
    """The stand-in's answer: a caption after the picture's brightness."""
    return CAPTIONS[int(np.asarray(image).mean() * 7) % len(CAPTIONS)]


class ModelServer:
    """POST /v1/chat/completions on a port of this machine, until it has answered `lifetime` requests."""

    def __init__(self, port: int = 0, lifetime: float = float("inf")) -> None:
        self.answered = 0
        self.lifetime = lifetime
        self.counting = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def die(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server.counting:
                    server.answered += 1
                    alive = server.answered <= server.lifetime
                    if server.answered == server.lifetime + 1:
                        threading.Thread(target=server.die).start()
                if alive:
                    self.reply(caption_of(picture_in(body)))

            def reply(self, text: str) -> None:
                answer = {"choices": [{"message": {"role": "assistant", "content": text}}]}
                payload = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def picture_in(body: dict) -> Image.Image:
    """The picture of a chat request."""
    (part,) = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))


@pytest.fixture
def model_server() -> Iterator[Callable[..., ModelServer]]:
    """`model_server(port=0, lifetime=inf)`: a started server; it ends with the test."""
    started: list[ModelServer] = []

    def start(port: int = 0, lifetime: float = float("inf")) -> ModelServer:
        started.append(ModelServer(port, lifetime))
        return started[-1]

    yield start
    for server in started:
        if server.answered <= server.lifetime:
            server.die()
