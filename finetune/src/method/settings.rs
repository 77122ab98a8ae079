//! Methods with other settings than those of the table, as the command line names them: `figa+gamma=0.1+gate=none`.

use std::ffi::OsStr;
use std::str::FromStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::{Error, ErrorKind};
use clap::{Arg, Command};
use figa_loss::Gate;

use super::{Base, Loss, METHODS, Method, Weights};

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, settings) = text.split_once('+').map_or((text, None), |(name, settings)| (name, Some(settings)));
        let names = || METHODS.map(|method| method.name).join(", ");
        let found = METHODS.into_iter().find(|method| method.name == name);
        let mut method = found.ok_or_else(|| format!("no method is named {name:?}; expected one of {}", names()))?;
        let mut keys = vec![];
        for setting in settings.into_iter().flat_map(|settings| settings.split('+')) {
            let (key, value) =
                setting.split_once('=').ok_or(format!("{setting:?}: expected NAME=VALUE, as in gamma=0.1"))?;
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
            ("eos", Weights::Figa(weights), _) => weights.eos = Some(number()? as f32),
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
            _ => return Err(format!("{} has no setting {key}; it has {}", self.name, self.settings())),
        }
        Ok(())
    }

    /// The names of what can be set.
    fn settings(&self) -> &'static str {
        match self.weights {
            Weights::Figa(_) => "alpha, beta, gamma, eos, gate, anchor, aligner, granularity, labels",
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
        Some(Box::new(METHODS.iter().map(|method| PossibleValue::new(method.name).help(method.help))))
    }
}

#[cfg(test)]
mod tests {
    use figa_loss::{Aligner, EditWeights, FigaLoss, FigaWeights, Granularity};

    use super::*;

    #[test]
    fn settings_change_a_method_and_its_name() {
        let method: Method =
            "figa+alpha=2+beta=0.25+gamma=0.1+eos=0+gate=none+aligner=myers+granularity=phrase:2".parse().unwrap();
        assert_eq!(method.name, "figa+alpha=2+beta=0.25+gamma=0.1+eos=0+gate=none+aligner=myers+granularity=phrase:2");
        let weights = FigaWeights { alpha: 2.0, beta: 0.25, gamma: 0.1, eos: Some(0.0) };
        assert!(matches!(method.weights, Weights::Figa(found) if found == weights));
        assert!(matches!(method.loss, Loss::Figa(figa) if figa == FigaLoss::new().with_gate(None)));
        assert_eq!((method.aligner, method.granularity), (Aligner::Myers, Granularity::Phrase(2)));
        assert_eq!((method.base, method.shuffled), (Base::Nothing, false));

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
}
