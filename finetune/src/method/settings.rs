//! Methods with other settings than those of the table, as the command line names them: `figa+gamma=0.1+gate=none`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::str::FromStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::{Error, ErrorKind};
use clap::{Arg, Command};
use figa_loss::{FigaWeights, Gate};

use super::{Base, Loss, METHODS, Method, Weights};

/// The setting without a value: the weights of the paper.
const PAPER: &str = "paper";

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, settings) = text.split_once('+').map_or((text, None), |(name, settings)| (name, Some(settings)));
        let names = || METHODS.map(|method| method.name).join(", ");
        let found = METHODS.into_iter().find(|method| method.name == name);
        let mut method = found.ok_or_else(|| format!("no method is named {name:?}; expected one of {}", names()))?;
        let mut keys = vec![];
        for setting in settings.into_iter().flat_map(|settings| settings.split('+')) {
            if setting == PAPER {
                method.set_paper(keys.is_empty())?;
                keys.push(PAPER);
                continue;
            }
            let expected = || format!("{setting:?}: expected NAME=VALUE, as in gamma=0.1, or {PAPER}");
            let (key, value) = setting.split_once('=').ok_or_else(expected)?;
            if keys.contains(&key) {
                return Err(format!("{key} is set twice"));
            }
            keys.push(key);
            method.set(key, value)?;
        }
        // A program has few methods, and each as long as it runs.
        Ok(Self { name: if keys.is_empty() { method.name } else { text.to_owned().leak() }, ..method })
    }
}

impl Method {
    /// Takes the weights of the paper.
    fn set_paper(&mut self, is_first: bool) -> Result<(), String> {
        match &mut self.weights {
            Weights::Figa(_) if !is_first => Err(format!("{PAPER}: expected before all other settings")),
            Weights::Figa(weights) => {
                *weights = FigaWeights::paper();
                Ok(())
            }
            Weights::Edits(_) | Weights::Revised => Err(self.has_no(PAPER)),
        }
    }

    /// The method of this name, with these weights by the names of the settings.
    pub(super) fn with_weights(name: &str, weights: &BTreeMap<String, f32>) -> Result<Self, String> {
        let mut method: Self = name.parse()?;
        if !weights.keys().eq(method.weights.numbers().keys()) {
            return Err(format!("{name}: expected weights for {:?}, got {weights:?}", method.weights.numbers().keys()));
        }
        weights.iter().try_for_each(|(key, value)| method.set(key, &value.to_string()))?;
        Ok(method)
    }

    fn has_no(&self, key: &str) -> String {
        format!("{} has no setting {key}; it has {}", self.name, self.settings())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || match value.parse() {
            Ok(number) if f64::is_finite(number) && number >= 0.0 => Ok(number),
            _ => Err(format!("{key}: expected a number of at least 0, got {value:?}")),
        };
        match (key, &mut self.weights, &mut self.loss) {
            ("aligner", Weights::Figa(_) | Weights::Edits(_), _) => self.aligner = parse(value)?,
            ("granularity", Weights::Figa(_) | Weights::Edits(_), _) => self.granularity = parse(value)?,
            ("labels", Weights::Figa(_) | Weights::Edits(_), _) => match value {
                "shuffled" => self.shuffled = true,
                _ => return Err(format!("labels: expected shuffled, got {value:?}")),
            },
            ("alpha", Weights::Figa(weights), _) => weights.alpha = number()? as f32,
            ("beta", Weights::Figa(weights), _) => weights.beta = number()? as f32,
            ("gamma", Weights::Figa(weights), _) => weights.gamma = number()? as f32,
            ("eos", Weights::Figa(weights), _) => weights.eos = number()? as f32,
            ("gate", _, Loss::Figa(figa) | Loss::Anchored(figa, _)) => {
                let gate = if value == "none" { None } else { Some(Gate::AtMost(number()?)) };
                *figa = figa.with_gate(gate);
            }
            ("anchor", _, Loss::Figa(figa) | Loss::Anchored(figa, _)) => {
                (self.base, self.loss) = (Base::Model, Loss::Anchored(*figa, number()?));
            }
            ("beta", _, Loss::Pairs(_, beta)) => *beta = number()?,
            ("changed", Weights::Edits(weights), _) => weights.changed = number()? as f32,
            ("kept", Weights::Edits(weights), _) => weights.kept = number()? as f32,
            _ => return Err(self.has_no(key)),
        }
        Ok(())
    }

    /// The names of what can be set.
    fn settings(&self) -> &'static str {
        match self.weights {
            Weights::Figa(_) => "paper, alpha, beta, gamma, eos, gate, anchor, aligner, granularity, labels",
            Weights::Edits(_) => "beta, changed, kept, aligner, granularity, labels",
            Weights::Revised => "none",
        }
    }
}

fn parse<T: FromStr<Err = figa_loss::Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: figa_loss::Error| error.to_string())
}

/// Reads a method, and lists those of the table in the help.
#[derive(Clone)]
pub struct MethodParser;

impl TypedValueParser for MethodParser {
    type Value = Method;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Method, Error> {
        let text = value.to_str().ok_or_else(|| Error::new(ErrorKind::InvalidUtf8).with_cmd(command))?;
        text.parse()
            .map_err(|error| Error::raw(ErrorKind::InvalidValue, format!("--method: {error}\n")).with_cmd(command))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(METHODS.iter().map(|method| {
            let help = match method.weights {
                Weights::Figa(weights) => format!("{} ({weights})", method.help),
                Weights::Revised | Weights::Edits(_) => method.help.to_owned(),
            };
            PossibleValue::new(method.name).help(help)
        })))
    }
}

#[cfg(test)]
mod tests {
    use figa_loss::{Aligner, EditWeights, FigaLoss, Granularity};

    use super::*;

    #[test]
    fn settings_change_a_method_and_its_name() {
        let method: Method =
            "figa+alpha=2+beta=0.25+gamma=0.1+eos=0+gate=none+aligner=myers+granularity=phrase:2".parse().unwrap();
        assert_eq!(method.name, "figa+alpha=2+beta=0.25+gamma=0.1+eos=0+gate=none+aligner=myers+granularity=phrase:2");
        let weights = FigaWeights { alpha: 2.0, beta: 0.25, gamma: 0.1, eos: 0.0 };
        assert!(matches!(method.weights, Weights::Figa(found) if found == weights));
        assert!(matches!(method.loss, Loss::Figa(figa) if figa == FigaLoss::new().with_gate(None)));
        assert_eq!((method.aligner, method.granularity), (Aligner::Myers, Granularity::Phrase(2)));
        assert_eq!((method.base, method.shuffled), (Base::Nothing, false));

        let weights_of = |name: &str| match name.parse::<Method>().unwrap().weights {
            Weights::Figa(weights) => weights,
            other => panic!("{other:?}"),
        };
        assert_eq!(["figa", "unlikelihood"].map(weights_of), [FigaWeights::new(); 2]);
        assert_eq!(["figa+paper", "unlikelihood+paper", "figa-kl"].map(weights_of), [FigaWeights::paper(); 3]);
        assert_eq!(weights_of("figa+paper+gamma=0.1"), FigaWeights { gamma: 0.1, ..FigaWeights::paper() });

        let anchored: Method = "figa+gate=0.3+anchor=0.5".parse().unwrap();
        let figa = FigaLoss::new().with_gate(Some(Gate::AtMost(0.3)));
        assert!(matches!(anchored.loss, Loss::Anchored(found, 0.5) if found == figa));
        assert_eq!(anchored.base, Base::Model);
        let ddpo: Method = "dpo+changed=3+kept=0.5+beta=0.3".parse().unwrap();
        assert!(matches!(ddpo.loss, Loss::Pairs(_, 0.3)));
        assert!(matches!(ddpo.weights, Weights::Edits(EditWeights { changed: 3.0, kept: 0.5 })));
        assert!("dpo+labels=shuffled".parse::<Method>().unwrap().shuffled);
        assert_eq!("sft".parse::<Method>().unwrap().name, "sft");
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        for (text, expected) in [
            ("fig", "no method is named \"fig\"; expected one of figa, sft, unlikelihood"),
            ("figa+gamma", "\"gamma\": expected NAME=VALUE, as in gamma=0.1"),
            ("figa+", "\"\": expected NAME=VALUE"),
            ("figa+papre", "\"papre\": expected NAME=VALUE, as in gamma=0.1, or paper"),
            ("figa+gamma=0.1+paper", "paper: expected before all other settings"),
            ("figa+paper+paper", "paper: expected before all other settings"),
            ("sft+paper", "sft has no setting paper; it has none"),
            ("figa+gamma=0.1+gamma=0.2", "gamma is set twice"),
            ("figa+gamma=-1", "gamma: expected a number of at least 0, got \"-1\""),
            ("figa+gate=nan", "gate: expected a number of at least 0, got \"nan\""),
            ("sft+granularity=word", "sft has no setting granularity; it has none"),
            ("dpo+gate=1", "dpo has no setting gate; it has beta, changed, kept, aligner"),
            ("figa+aligner=diff", "aligner: expected levenshtein, myers"),
            ("figa+labels=random", "labels: expected shuffled, got \"random\""),
        ] {
            let error = text.parse::<Method>().unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_saved_method_keeps_its_weights() {
        let saved = |name: &str| serde_json::to_value(name.parse::<Method>().unwrap()).unwrap();
        let mut figa = saved("figa");
        // What the name stands for has changed since.
        figa["weights"]["gamma"] = 0.25.into();
        let Weights::Figa(weights) = serde_json::from_value::<Method>(figa.clone()).unwrap().weights else { panic!() };
        assert_eq!(weights, FigaWeights { gamma: 0.25, ..FigaWeights::new() });
        for name in ["sft", "ddpo", "dpo+beta=0.3+kept=0.5", "figa-kl+eos=0"] {
            let method: Method = serde_json::from_value(saved(name)).unwrap();
            assert_eq!((method.name, serde_json::to_value(method).unwrap()), (name, saved(name)));
        }
        figa["weights"].as_object_mut().unwrap().remove("eos");
        for (value, expected) in [
            (figa, "figa: expected weights for"),
            ("figa".into(), "the run does not say what the tokens of figa weigh, as those of older versions"),
        ] {
            let error = serde_json::from_value::<Method>(value).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
