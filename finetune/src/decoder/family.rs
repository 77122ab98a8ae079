//! How the families of models differ, beside the numbers in `config.json`. A family is an entry of a table.

/// The norms in front of a part of a layer and behind it, by the names of their weights.
pub(super) type Norms = [Option<&'static str>; 2];

/// `None` for no cap.
pub(super) type Softcap = Option<f64>;

/// Models with the same `model_type`. What the fields call a default is taken where `config.json` says nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) model_type: &'static str,
    pub(super) attention_norms: Norms,
    pub(super) feed_forward_norms: Norms,
    pub(super) rms_norm: RmsNorm,
    pub(super) query_key_norm: Option<QueryKeyNorm>,
    /// Whether query, key and value are one matrix, and gate and up another.
    pub(super) has_fused_projections: bool,
    pub(super) biases: Biases,
    pub(super) windows: Windows,
    pub(super) rotary: Rotaries,
    /// Default.
    pub(super) rope_theta: f64,
    /// Default; `None` for the hidden size divided by the number of heads.
    pub(super) head_dim: Option<i64>,
    /// Default.
    pub(super) tie_word_embeddings: bool,
    /// The name of the field with the activation function, and its default.
    pub(super) activation: (&'static str, &'static str),
    pub(super) attention_scale: AttentionScale,
    /// Whether embeddings are multiplied by the root of the hidden size.
    pub(super) scales_embeddings: bool,
    /// The default of the cap on attention scores; `None` if the family knows none.
    pub(super) attention_softcap: Option<Softcap>,
    /// The same for logits.
    pub(super) logit_softcap: Option<Softcap>,
    /// Whether `embedding_multiplier` and its like are read.
    pub(super) has_multipliers: bool,
}

/// How a normalised row is multiplied by the weight of its norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RmsNorm {
    /// Rounded to the dtype of the computation before.
    Rounded,
    /// In f32.
    Wide,
    /// In f32, by 1 more than the weight.
    OnePlus,
}

/// What the norms of queries and keys see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryKeyNorm {
    EachHead,
    AllHeads,
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    None,
    QueryKeyValue,
    /// `attention_bias` says it.
    Attention,
    /// `attention_bias` and `mlp_bias` say it.
    All,
}

/// Which layers attend to a window alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    None,
    /// All of them, if `sliding_window` is a number, which is this by default.
    All(Option<i64>),
    /// With `use_sliding_window`: by default those from `max_window_layers` on.
    Upper,
    /// With `use_sliding_window`: by default those without rotary positions.
    WithoutRotary,
    /// By default all but every n-th, counted from 1.
    AllBut(usize),
}

/// Which rotary positions layers have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rotaries {
    /// All the same.
    Same,
    /// All the same, of a part of the dimensions.
    Partial,
    /// The same, but by default none in every n-th layer, counted from 1.
    AllBut(usize),
    /// Their own in layers that attend to a window, with this theta by default.
    Local(f64),
}

/// The factor of attention scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttentionScale {
    /// One divided by the root of the dimensions of a head.
    HeadDim,
    /// One divided by the root of `query_pre_attn_scalar`, which is 256 by default.
    QueryScalar,
    /// `attention_multiplier`, 1 by default.
    Multiplier,
}

const LLAMA: Family = Family {
    model_type: "llama",
    attention_norms: [Some("input_layernorm"), None],
    feed_forward_norms: [Some("post_attention_layernorm"), None],
    rms_norm: RmsNorm::Rounded,
    query_key_norm: None,
    has_fused_projections: false,
    biases: Biases::All,
    windows: Windows::None,
    rotary: Rotaries::Same,
    rope_theta: 10_000.0,
    head_dim: None,
    tie_word_embeddings: false,
    activation: ("hidden_act", "silu"),
    attention_scale: AttentionScale::HeadDim,
    scales_embeddings: false,
    attention_softcap: None,
    logit_softcap: None,
    has_multipliers: false,
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    attention_norms: [Some("input_layernorm"), Some("post_attention_layernorm")],
    feed_forward_norms: [Some("pre_feedforward_layernorm"), Some("post_feedforward_layernorm")],
    rms_norm: RmsNorm::OnePlus,
    biases: Biases::Attention,
    windows: Windows::AllBut(2),
    head_dim: Some(256),
    tie_word_embeddings: true,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    attention_scale: AttentionScale::QueryScalar,
    scales_embeddings: true,
    attention_softcap: Some(Some(50.0)),
    logit_softcap: Some(Some(30.0)),
    ..LLAMA
};

/// All families that the decoder computes.
pub(super) const FAMILIES: [Family; 10] = [
    LLAMA,
    Family { model_type: "mistral", biases: Biases::None, windows: Windows::All(Some(4096)), ..LLAMA },
    Family { model_type: "qwen2", biases: Biases::QueryKeyValue, windows: Windows::Upper, ..LLAMA },
    Family {
        model_type: "qwen3",
        biases: Biases::Attention,
        query_key_norm: Some(QueryKeyNorm::EachHead),
        windows: Windows::Upper,
        head_dim: Some(128),
        ..LLAMA
    },
    Family {
        model_type: "smollm3",
        windows: Windows::WithoutRotary,
        rotary: Rotaries::AllBut(4),
        rope_theta: 2_000_000.0,
        tie_word_embeddings: true,
        ..LLAMA
    },
    Family {
        model_type: "phi3",
        has_fused_projections: true,
        biases: Biases::None,
        windows: Windows::All(None),
        rotary: Rotaries::Partial,
        ..LLAMA
    },
    GEMMA2,
    Family {
        model_type: "gemma3_text",
        query_key_norm: Some(QueryKeyNorm::EachHead),
        windows: Windows::AllBut(6),
        rotary: Rotaries::Local(10_000.0),
        rope_theta: 1_000_000.0,
        attention_softcap: None,
        logit_softcap: Some(None),
        ..GEMMA2
    },
    Family {
        model_type: "olmo2",
        attention_norms: [None, Some("post_attention_layernorm")],
        feed_forward_norms: [None, Some("post_feedforward_layernorm")],
        rms_norm: RmsNorm::Wide,
        query_key_norm: Some(QueryKeyNorm::AllHeads),
        biases: Biases::Attention,
        ..LLAMA
    },
    Family { model_type: "granite", attention_scale: AttentionScale::Multiplier, has_multipliers: true, ..LLAMA },
];
