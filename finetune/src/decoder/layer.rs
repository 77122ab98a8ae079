//! A layer: attention and the feed-forward part, each with its norms.

use figa_loss::tch::{Kind, Tensor};

use super::context::Context;
use super::family::{Norms, QueryKeyNorm, RmsNorm};
use super::{Cache, Decoder};

impl Decoder {
    /// Given the positions that are `needed`, nothing is computed for others once the tokens have attended to each other.
    pub(super) fn layer(
        &self,
        index: i64,
        x: &Tensor,
        context: &Context,
        cache: Option<&mut Cache>,
        needed: Option<&Tensor>,
    ) -> Tensor {
        let family = &self.config.family;
        let mut x = self.add(index, family.attention_norms, x, |x| self.attention(index, x, context, cache));
        if let Some(needed) = needed {
            x = x.flatten(0, 1).index_select(0, needed);
        }
        self.add(index, family.feed_forward_norms, &x, |x| self.feed_forward(index, x))
    }

    /// Adds to `x` what a part of a layer makes of it, between its norms.
    fn add(&self, index: i64, norms: Norms, x: &Tensor, part: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        let norm = |name: Option<&str>, x: Tensor| match name {
            Some(name) => self.rms_norm(&format!("model.layers.{index}.{name}.weight"), &x),
            None => x,
        };
        let [before, behind] = norms;
        let y = norm(behind, part(&norm(before, x.shallow_clone())));
        // Not in place: the backward pass needs the inputs of the norms.
        match self.config.residual_scale {
            1.0 => x + y,
            scale => x + y * scale,
        }
    }

    fn attention(&self, index: i64, x: &Tensor, context: &Context, cache: Option<&mut Cache>) -> Tensor {
        let (config, layer) = (&self.config, self.config.layers[index as usize]);
        let (batch, seq, dim) = (x.size()[0], x.size()[1], config.head_dim);
        let [query, key, value] = self.query_key_value(index, x);
        let heads = |x: Tensor| x.reshape([batch, seq, -1, dim]);
        let norm = |part: &str, when: QueryKeyNorm, x: Tensor| match config.family.query_key_norm == Some(when) {
            true => self.rms_norm(&format!("model.layers.{index}.self_attn.{part}_norm.weight"), &x),
            false => x,
        };
        let position = |part: &str, x: Tensor| {
            let x = heads(norm(part, QueryKeyNorm::AllHeads, x));
            let x = norm(part, QueryKeyNorm::EachHead, x).transpose(1, 2);
            layer.rotary.map_or_else(|| x.shallow_clone(), |rotary| context.rotate(rotary, &x))
        };
        let (query, mut key, mut value) = (position("q", query), position("k", key), heads(value).transpose(1, 2));
        if let Some(cache) = cache {
            [key, value] = cache.extend(index as usize, [key, value]);
        }
        let mask = context.mask(layer.window);
        let mixed = if seq == 1 {
            // The heads that share a key are its queries, so that nothing is repeated for a single token.
            self.attend(&query.reshape([batch, config.kv_heads, -1, dim]), &key, &value, mask)
        } else {
            let repeat = |x: Tensor| x.repeat_interleave_self_int(config.heads / config.kv_heads, 1, None);
            self.attend(&query, &repeat(key), &repeat(value), mask).transpose(1, 2)
        };
        self.linear(index, "self_attn.o_proj", &mixed.reshape([batch, seq, config.heads * dim]))
    }

    fn query_key_value(&self, index: i64, x: &Tensor) -> [Tensor; 3] {
        if self.config.family.has_fused_projections {
            let (query, key) = (self.config.heads * self.config.head_dim, self.config.kv_heads * self.config.head_dim);
            let all = self.linear(index, "self_attn.qkv_proj", x);
            [(0, query), (query, key), (query + key, key)].map(|(start, len)| all.narrow(-1, start, len))
        } else {
            ["q", "k", "v"].map(|part| self.linear(index, &format!("self_attn.{part}_proj"), x))
        }
    }

    /// Mixes the values `[B, heads, seen, head_dim]` for each query, in the place of other tokens than those in the mask.
    fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let scale = self.config.attention_scale;
        let Some(cap) = self.config.attention_softcap else {
            let is_causal = mask.is_none();
            return Tensor::scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, scale, false);
        };
        let scores = (query.matmul(&key.transpose(2, 3)) * (scale / cap)).tanh() * cap;
        let hidden = match mask {
            Some(mask) => mask.logical_not(),
            None => {
                let [len, seen] = [query, key].map(|x| x.size()[2]);
                Tensor::ones([len, seen], (Kind::Bool, query.device())).triu(1)
            }
        };
        let scores = scores.masked_fill(&hidden, f64::NEG_INFINITY);
        scores.softmax(-1, Kind::Float).to_kind(value.kind()).matmul(value)
    }

    fn feed_forward(&self, index: i64, x: &Tensor) -> Tensor {
        let part = |name: &str, x: &Tensor| self.linear(index, &format!("mlp.{name}"), x);
        let (gate, up) = if self.config.family.has_fused_projections {
            let both = part("gate_up_proj", x).chunk(2, -1);
            (both[0].shallow_clone(), both[1].shallow_clone())
        } else {
            (part("gate_proj", x), part("up_proj", x))
        };
        part("down_proj", &(self.config.activation.apply(&gate) * up))
    }

    fn linear(&self, index: i64, name: &str, x: &Tensor) -> Tensor {
        let name = format!("model.layers.{index}.{name}");
        let bias = format!("{name}.bias");
        let bias = self.parameters.contains_key(&bias).then(|| self.get(&bias));
        x.linear(&self.get(&format!("{name}.weight")), bias.as_ref())
    }

    /// Computed in f32, whatever the dtype of `x`.
    pub(super) fn rms_norm(&self, weight: &str, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let wide = x.to_kind(Kind::Float);
        let scale = (wide.square().mean_dim(-1, true, Kind::Float) + self.config.rms_norm_eps).rsqrt();
        let normal = wide * scale;
        let wide_weight = || self.parameters[weight].to_kind(Kind::Float);
        match self.config.family.rms_norm {
            RmsNorm::Rounded => normal.to_kind(kind) * self.get(weight),
            RmsNorm::Wide => (normal * wide_weight()).to_kind(kind),
            RmsNorm::OnePlus => (normal * (wide_weight() + 1.0)).to_kind(kind),
        }
    }
}
