//! The gradients of a step. They are kept here, and not in the parameters, so that each is freed once it is used.

use std::collections::BTreeMap;

use anyhow::Result;
use figa_loss::tch::{self, Kind, Tensor};

use crate::ranks::Ranks;

/// The sum of the gradients of some losses, by parameter.
pub struct Gradients {
    /// The trainable parameters.
    parameters: BTreeMap<String, Tensor>,
    sums: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// None yet, for those of the parameters that are trainable.
    pub fn new(parameters: &BTreeMap<String, Tensor>) -> Self {
        let trainable = parameters.iter().filter(|(_, value)| value.requires_grad());
        let parameters = trainable.map(|(name, value)| (name.clone(), value.shallow_clone())).collect();
        Self { parameters, sums: BTreeMap::new() }
    }

    /// Adds the gradient of a scalar with respect to all parameters.
    pub fn add_all(&mut self, loss: &Tensor) {
        let names: Vec<String> = self.parameters.keys().cloned().collect();
        self.add_parameters(loss, &names);
    }

    /// The same for some parameters.
    pub fn add_parameters(&mut self, loss: &Tensor, names: &[String]) {
        self.add_with_inputs(loss, names, &[]);
    }

    /// The same, and returns the gradient with respect to an input.
    pub fn add(&mut self, loss: &Tensor, names: &[String], input: &Tensor) -> Tensor {
        let gradient = self.add_with_inputs(loss, names, &[input]).pop().filter(Tensor::defined);
        gradient.unwrap_or_else(|| input.detach().zeros_like())
    }

    fn add_with_inputs(&mut self, loss: &Tensor, names: &[String], inputs: &[&Tensor]) -> Vec<Tensor> {
        let names: Vec<&String> = names.iter().filter(|&name| self.parameters.contains_key(name)).collect();
        let parameters = names.iter().map(|&name| &self.parameters[name]);
        let all: Vec<&Tensor> = parameters.chain(inputs.iter().copied()).collect();
        if all.is_empty() {
            return vec![];
        }
        let mut gradients = Tensor::run_backward(&[loss], &all, false, false);
        let of_inputs = gradients.split_off(names.len());
        for (name, gradient) in names.into_iter().zip(gradients) {
            // A parameter that the loss does not depend on has none.
            if !gradient.defined() {
                continue;
            }
            match self.sums.get_mut(name) {
                None => {
                    self.sums.insert(name.clone(), gradient);
                }
                Some(sum) => {
                    let _no_grad = tch::no_grad_guard();
                    // Sums of half precision would lose what is small.
                    *sum = sum.to_kind(Kind::Float);
                    let _ = sum.g_add_(&gradient);
                }
            }
        }
        of_inputs
    }

    /// Replaces them by the sums over all processes.
    pub fn sum_over(&mut self, ranks: &Ranks) -> Result<()> {
        if ranks.count() == 1 {
            return Ok(());
        }
        let _no_grad = tch::no_grad_guard();
        for (name, parameter) in &self.parameters {
            // Another process may have one. All add in f32, as half precision would lose what is small.
            let sum = self.sums.remove(name).unwrap_or_else(|| parameter.detach().zeros_like());
            let mut sum = sum.to_kind(Kind::Float);
            ranks.sum_tensor(&mut sum)?;
            self.sums.insert(name.clone(), sum);
        }
        Ok(())
    }

    /// The norm of all gradients together.
    pub fn norm(&self) -> f64 {
        let _no_grad = tch::no_grad_guard();
        let norm = |gradient: &Tensor| gradient.norm_scalaropt_dtype(2, Kind::Float);
        let norms: Vec<Tensor> = self.sums.values().map(norm).collect();
        if norms.is_empty() { 0.0 } else { Tensor::stack(&norms, 0).norm().double_value(&[]) }
    }

    /// Takes the gradient of a parameter, in f32, if there is one.
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        self.sums.remove(name).map(|gradient| gradient.to_kind(Kind::Float))
    }
}
