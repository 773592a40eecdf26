"""The language model: a decoder-only transformer over token ids, and the tokenizer that they are of."""

from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from safetensors.torch import load_file, save
from torch import Tensor, nn

from codec.lm.recipe import TransformerConfig
from codec.model import Codec
from codec.quantize import ResidualVQ, VectorQuantize
from codec.tokens import CodecTokenizer
from codec.tokens.tokenizer import TOKENIZER_FILE
from codec.whole import write_whole

try:
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
except ImportError as error:
    message = "transformers must be installed for language models: pip install 'rvq-codec[lm]'"
    raise ImportError(message, name=error.name) from error

# What transformers calls them.
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
# Of what embeddings and outputs of codes begin with, where they are code vectors; Llama's own is 0.02.
EMBEDDING_DEVIATION, OUTPUT_DEVIATION = 0.05, 0.02


class CodeLM(nn.Module):
    """Predicts the next step of a sequence of token ids.

    The tokens of a step are embedded and summed, as MusicGen does (section 2.2 of arXiv 2306.05284); one table of
    embeddings, and one of outputs, serves all rows, since each stage has ids of its own. With one row a step it is an
    ordinary Llama, and `LlamaForCausalLM.from_pretrained` opens its folder, too.

    Args:
        transformer: With the tokenizer's `vocab_size`.
        tokenizer: Of the sequences.
        dropout: Share of the channels of a step's embedding that is left out in training.

    Raises:
        ValueError: The two have different vocabularies, or several rows a step share their ids.
    """

    def __init__(self, transformer: LlamaForCausalLM, tokenizer: CodecTokenizer, dropout: float = 0.0):
        super().__init__()
        check_vocabulary(transformer.config, tokenizer)
        if tokenizer.shared and tokenizer.width > 1:
            raise ValueError(
                f"tokenizer must give each stage ids of its own for the pattern {tokenizer.pattern}, whose rows are "
                f"told apart by them; got shared ids"
            )
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.dropout = nn.Dropout(dropout)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transformer.device

    @property
    def max_steps(self) -> int:
        """The longest sequence that it was made for, in steps."""
        return int(self.transformer.config.max_position_embeddings)

    def new_cache(self) -> DynamicCache:
        """Keys and values of no step yet; `forward` adds to it."""
        return DynamicCache(config=self.transformer.config)

    def forward(self, ids: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """What comes after each step.

        Args:
            ids: [batch, width, steps], int64.
            cache: Of the steps before these; these are added to it. Default: there are none.

        Returns:
            Logits, [batch, steps, vocab_size], float32: those of step s tell the tokens of step s + 1, in all of its
            rows. Tokens that are not legal there have some, too: see `CodecTokenizer.allowances`.
        """
        return self.transformer.lm_head(self.hidden(ids, cache)).float()

    def hidden(self, ids: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """What `forward` makes its logits from, [batch, steps, hidden_size]."""
        embeddings = self.transformer.get_input_embeddings()(rearrange(ids, "b w s -> b s w")).sum(2)
        output = self.transformer.model(
            inputs_embeds=self.dropout(embeddings), past_key_values=cache, use_cache=cache is not None
        )
        return output.last_hidden_state

    def check_codec(self, codec: Codec) -> None:
        """Refuse a codec whose codes the model did not learn.

        Raises:
            ValueError: It has other weights, fewer stages or codebooks of another size.
        """
        self.tokenizer.check_codec(codec)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, configuration and tokenizer into a folder, which is made if need be; each whole or not at all.

        Raises:
            OSError: They cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.contiguous() for name, weight in self.transformer.state_dict().items()}
        write_whole(folder / WEIGHTS_FILE, save(weights, {"format": "pt"}))
        write_whole(folder / CONFIG_FILE, self.transformer.config.to_json_string().encode())
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "CodeLM":
        """Open what `save_pretrained` wrote, in eval mode. It is read as data: nothing in it is run.

        Raises:
            ValueError: The folder lacks a file, or one is not what it must be.
        """
        for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
            if not (Path(folder) / name).is_file():
                raise ValueError(f"{folder} must hold a language model of codes; it has no {name}")
        tokenizer = CodecTokenizer.from_pretrained(folder)
        try:
            config = LlamaConfig.from_pretrained(folder, local_files_only=True)
            # Before there are weights: those of another model may be larger than the memory.
            check_vocabulary(config, tokenizer)
            # What a file could name otherwise is code from elsewhere.
            config._attn_implementation = "sdpa"
            transformer = LlamaForCausalLM(config)
            # Not by transformers, which opens pickles where an index names one, and takes what a file lacks for random.
            transformer.load_state_dict(load_file(Path(folder) / WEIGHTS_FILE))
        # Of a damaged file transformers says so with whatever error comes up.
        except Exception as error:
            raise ValueError(f"{folder} must hold a language model of codes; {' '.join(str(error).split())}") from error
        return cls(transformer, tokenizer).eval()


def check_vocabulary(config: LlamaConfig, tokenizer: CodecTokenizer) -> None:
    """Raise a ValueError if a transformer has other tokens than the tokenizer."""
    if config.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"transformer must have the {tokenizer.vocab_size} tokens of the tokenizer; got {config.vocab_size}"
        )


def build_lm(config: TransformerConfig, tokenizer: CodecTokenizer) -> CodeLM:
    """A language model with random weights, or with embeddings of code vectors.

    Raises:
        ValueError: `config.codec` is not the codec whose codes the tokens are.
    """
    transformer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.max_steps,
            tie_word_embeddings=False,
            # Ids of the tokenizer, not of Llama's own.
            bos_token_id=tokenizer.bos_id,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
            architectures=["LlamaForCausalLM"],
        )
    )
    if config.codec:
        codec = Codec.from_pretrained(config.codec)
        tokenizer.check_codec(codec)
        place_code_vectors(transformer, tokenizer, codec.quantizer)
    return CodeLM(transformer, tokenizer, config.dropout)


@torch.no_grad()
def place_code_vectors(transformer: LlamaForCausalLM, tokenizer: CodecTokenizer, quantizer: ResidualVQ) -> None:
    """Let the embeddings and outputs of codes begin with the code vectors, in a random projection.

    So codes that sound alike are alike from the start, which little data could hardly teach.

    Args:
        transformer: Whose tables to fill.
        tokenizer: With ids of its own for each stage.
        quantizer: The stack whose codes the tokens are.

    Raises:
        ValueError: The stages share their ids.
    """
    if tokenizer.shared:
        raise ValueError("tokenizer must give each stage ids of its own, to have its code vectors; got shared ids")
    tables = transformer.model.embed_tokens.weight, transformer.lm_head.weight
    hidden_size = tables[0].shape[1]
    every_code = torch.arange(tokenizer.codebook_size)
    vectors = [
        rearrange(cast(VectorQuantize, stage).decode(rearrange(every_code, "k -> 1 k")), "1 d k -> k d")
        for stage in list(quantizer.stages)[: tokenizer.num_quantizers]
    ]
    projection = torch.randn(vectors[0].shape[1], hidden_size)
    for stage, stage_vectors in enumerate(vectors):
        projected = (stage_vectors - stage_vectors.mean(0)) @ projection
        first = tokenizer.vocabulary.offset(stage)
        for table, deviation in zip(tables, (EMBEDDING_DEVIATION, OUTPUT_DEVIATION), strict=True):
            table[first : first + tokenizer.codebook_size] = deviation * projected / projected.std()
