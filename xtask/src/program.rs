//! Which commands and flags a program has, from the clap declarations in its sources.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::Visit;
use syn::{Attribute, GenericArgument, Item, Path, PathArguments, Type};

use crate::rust::parse;

/// The flags that clap adds to each program.
const BUILT_IN: [&str; 2] = ["help", "version"];

/// The commands and flags of a program.
#[derive(Debug, Default)]
pub struct Program {
    /// The flags of each command, without their hyphens. The name of the program's own flags is empty.
    pub commands: BTreeMap<String, BTreeSet<String>>,
}

/// A struct that declares arguments.
struct Declaration {
    /// The module of the struct, and its name.
    name: [String; 2],
    is_root: bool,
    flags: BTreeSet<String>,
    /// The structs that it includes with `flatten`.
    flattened: Vec<Path>,
}

impl Program {
    /// Reads the declarations in the sources of one program, and the arguments that it takes from the sources of others.
    pub fn read(sources: &[String], others: &[String]) -> Self {
        let mut reader = Reader::default();
        reader.read(sources);
        let own_commands = std::mem::take(&mut reader.commands);
        reader.read(others);
        let mut commands: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (command, arguments) in &own_commands {
            let flags = arguments.iter().flat_map(|path| reader.flags(reader.find(path, "")));
            commands.insert(command.clone(), flags.chain(BUILT_IN.map(String::from)).collect());
        }
        if let Some(root) = reader.declarations.iter().find(|declaration| declaration.is_root) {
            commands.insert(String::new(), reader.flags(root).into_iter().chain(BUILT_IN.map(String::from)).collect());
        }
        // A program that reads no arguments has no flags either.
        commands.entry(String::new()).or_default();
        Self { commands }
    }

    /// The problem with the arguments of a call, if any. `rest` is what follows the name of the program.
    pub fn problem(&self, rest: &[String]) -> Option<String> {
        let command = rest.first().filter(|_| self.commands.len() > 1).filter(|word| !word.starts_with('-'));
        let command = command.map_or("", |word| word);
        let Some(flags) = self.commands.get(command) else { return Some(format!("there is no command {command}")) };
        let unknown = rest.iter().filter_map(|word| flag(word)).find(|flag| !flags.contains(*flag));
        unknown.map(|flag| format!("there is no flag --{flag}"))
    }
}

/// The name in `--name` or `--name=value`.
pub fn flag(word: &str) -> Option<&str> {
    let flag = word.strip_prefix("--")?.split('=').next()?;
    (!flag.is_empty()).then_some(flag)
}

#[derive(Default)]
struct Reader {
    module: String,
    declarations: Vec<Declaration>,
    /// Each subcommand with the struct that declares its arguments, if it has one.
    commands: BTreeMap<String, Option<Path>>,
}

impl Reader {
    fn read(&mut self, sources: &[String]) {
        for path in sources {
            self.module = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs").into();
            self.visit_file(&parse(path));
        }
    }

    /// The struct that a path names; one without a module is looked up in `module` first.
    fn find(&self, path: &Path, module: &str) -> &Declaration {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let name = names.last().expect("a path has a segment");
        let module = names.iter().nth_back(1).map_or(module, |module| module);
        let same = || self.declarations.iter().filter(|declaration| declaration.name[1] == *name);
        let found = same().find(|declaration| declaration.name[0] == module).or_else(|| same().next());
        found.unwrap_or_else(|| panic!("no struct {} derives clap's Args", names.join("::")))
    }

    fn flags(&self, declaration: &Declaration) -> BTreeSet<String> {
        let flattened = declaration.flattened.iter().map(|path| self.find(path, &declaration.name[0]));
        declaration.flags.iter().cloned().chain(flattened.flat_map(|part| self.flags(part))).collect()
    }
}

impl Visit<'_> for Reader {
    fn visit_item(&mut self, item: &Item) {
        match item {
            Item::Struct(item) if derives(&item.attrs, "Args") || derives(&item.attrs, "Parser") => {
                let mut declaration = Declaration {
                    name: [self.module.clone(), item.ident.to_string()],
                    is_root: derives(&item.attrs, "Parser"),
                    flags: BTreeSet::new(),
                    flattened: vec![],
                };
                for field in &item.fields {
                    let name = field.ident.as_ref().map(|name| kebab(&name.to_string()));
                    declaration.flags.extend(name.and_then(|name| long_flag(&field.attrs, name)));
                    if has(&field.attrs, "command", "flatten") {
                        declaration.flattened.extend(innermost(&field.ty));
                    }
                }
                self.declarations.push(declaration);
            }
            Item::Enum(item) if derives(&item.attrs, "Subcommand") => {
                for variant in &item.variants {
                    let arguments = match &variant.fields {
                        syn::Fields::Unnamed(fields) => fields.unnamed.first().and_then(|field| innermost(&field.ty)),
                        _ => None,
                    };
                    self.commands.insert(kebab(&variant.ident.to_string()), arguments);
                }
            }
            _ => syn::visit::visit_item(self, item),
        }
    }
}

fn derives(attributes: &[Attribute], name: &str) -> bool {
    let mut found = false;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        let _ = attribute.parse_nested_meta(|meta| {
            found |= meta.path.segments.last().is_some_and(|segment| segment.ident == name);
            Ok(())
        });
    }
    found
}

/// Whether there is an attribute such as `#[command(flatten)]`.
fn has(attributes: &[Attribute], attribute: &str, word: &str) -> bool {
    settings(attributes, attribute).iter().any(|(name, _)| name == word)
}

/// The name of a field's flag, if `#[arg(long)]` or `#[arg(long = "name")]` makes it one.
fn long_flag(attributes: &[Attribute], field: String) -> Option<String> {
    let (_, name) = settings(attributes, "arg").into_iter().find(|(setting, _)| setting == "long")?;
    Some(name.unwrap_or(field))
}

/// The settings in an attribute's list, each with its value if that is a string.
fn settings(attributes: &[Attribute], name: &str) -> Vec<(String, Option<String>)> {
    let mut settings = vec![];
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
        let _ = attribute.parse_nested_meta(|meta| {
            let setting = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            let mut value = None;
            if meta.input.peek(syn::Token![=]) {
                let expression: syn::Expr = meta.value()?.parse()?;
                if let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = expression {
                    value = Some(text.value());
                }
            } else if meta.input.peek(syn::token::Paren) {
                let list;
                syn::parenthesized!(list in meta.input);
                list.parse::<proc_macro2::TokenStream>()?;
            }
            settings.push((setting, value));
            Ok(())
        });
    }
    settings
}

/// `T` of `Box<T>`, and any other type itself.
fn innermost(of: &Type) -> Option<Path> {
    let Type::Path(of) = of else { return None };
    match &of.path.segments.last()?.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first()? {
            GenericArgument::Type(inner) => innermost(inner),
            _ => None,
        },
        _ => Some(of.path.clone()),
    }
}

/// `MaxLength` and `max_length` as clap spells them: `max-length`.
fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for c in name.chars() {
        match c {
            '_' => kebab.push('-'),
            c if c.is_uppercase() => {
                if !kebab.is_empty() {
                    kebab.push('-');
                }
                kebab.extend(c.to_lowercase());
            }
            c => kebab.push(c),
        }
    }
    kebab
}
