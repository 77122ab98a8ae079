//! What the checks read from a Rust source.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprLit, Ident, Lit, Meta, Visibility};

use crate::markdown::Markdown;
use crate::read;

/// A Rust file.
pub fn parse(path: &str) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|error| panic!("{path}:{}: {error}", error.span().start().line))
}

/// The doc comments of a file, each as a separate text.
pub fn docs(path: &str) -> Vec<Markdown> {
    let mut lines = DocLines(vec![]);
    lines.visit_file(&parse(path));
    lines.0.sort_by_key(|&(line, _)| line);
    let blocks = lines.0.chunk_by(|before, after| before.0 + 1 == after.0);
    let text = |block: &[(usize, String)]| block.iter().map(|(_, text)| format!("{text}\n")).collect::<String>();
    blocks.map(|block| Markdown::parse(path, block[0].0, &text(block))).collect()
}

struct DocLines(Vec<(usize, String)>);

impl Visit<'_> for DocLines {
    fn visit_attribute(&mut self, attribute: &Attribute) {
        if attribute.path().is_ident("doc")
            && let Meta::NameValue(meta) = &attribute.meta
            && let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &meta.value
        {
            let text = text.value();
            let text = text.strip_prefix(' ').unwrap_or(&text);
            self.0.push((attribute.pound_token.span.start().line, text.into()));
        }
    }
}

/// The strings in the code of a file, each with its line. Doc comments are not included.
pub fn strings(path: &str) -> Vec<(usize, String)> {
    let tokens = read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut strings = vec![];
    add_strings(tokens, &mut strings);
    strings
}

fn add_strings(tokens: TokenStream, strings: &mut Vec<(usize, String)>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let first = group.stream().into_iter().next().map(|token| token.to_string());
                if first.is_none_or(|first| first != "doc") {
                    add_strings(group.stream(), strings);
                }
            }
            TokenTree::Literal(literal) => {
                if let Lit::Str(text) = Lit::new(literal.clone()) {
                    strings.push((literal.span().start().line, text.value()));
                }
            }
            _ => {}
        }
    }
}

/// All identifiers in the code of a file. Those in the arguments of macros are not included.
pub fn identifiers(path: &str) -> Vec<String> {
    let mut identifiers = Identifiers(vec![]);
    identifiers.visit_file(&parse(path));
    identifiers.0
}

struct Identifiers(Vec<String>);

impl Visit<'_> for Identifiers {
    fn visit_ident(&mut self, identifier: &Ident) {
        self.0.push(identifier.to_string());
    }
}

/// The names that a file declares with an unrestricted `pub`, except modules and tests.
pub fn public_names(path: &str) -> Vec<String> {
    let mut names = PublicNames(vec![]);
    names.visit_file(&parse(path));
    names.0
}

struct PublicNames(Vec<String>);

impl PublicNames {
    fn add(&mut self, visibility: &Visibility, name: &Ident) {
        if matches!(visibility, Visibility::Public(_)) {
            self.0.push(name.to_string());
        }
    }
}

impl<'a> Visit<'a> for PublicNames {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        let is_test = |attribute: &Attribute| {
            attribute.path().is_ident("cfg") && attribute.parse_args::<Ident>().is_ok_and(|ident| ident == "test")
        };
        if !module.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_item_enum(&mut self, item: &'a syn::ItemEnum) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.add(&item.vis, &item.sig.ident);
    }

    fn visit_item_struct(&mut self, item: &'a syn::ItemStruct) {
        self.add(&item.vis, &item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_trait(&mut self, item: &'a syn::ItemTrait) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_item_type(&mut self, item: &'a syn::ItemType) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        self.add(&item.vis, &item.ident);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.add(&item.vis, &item.sig.ident);
    }

    fn visit_field(&mut self, field: &'a syn::Field) {
        if let Some(name) = &field.ident {
            self.add(&field.vis, name);
        }
    }
}
