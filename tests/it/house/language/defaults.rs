//! The rule that options of builders document their default.

use super::text::Text;

/// Phrases by which the documentation of an option states its default.
const DEFAULTS: [&str; 8] = [
    "default",
    "unless",
    "otherwise",
    "without it",
    "without them",
    "initially",
    "required",
    "no limit",
];

/// Finds options of public builders whose documentation states no default.
pub(super) fn undocumented(text: &Text) -> Vec<String> {
    if !text.is("rs") || !text.path.starts_with("src") {
        return Vec::new();
    }
    let file = syn::parse_file(&text.content).unwrap();
    let builders = file.items.iter().filter_map(|item| match item {
        syn::Item::Impl(item) if item.trait_.is_none() => {
            builder_name(&item.self_ty).map(|name| (name, item))
        }
        _ => None,
    });
    let mut found = Vec::new();
    for (builder, item) in builders {
        let options = item.items.iter().filter_map(option);
        for option in options.filter(|option| !states_default(&option.attrs)) {
            let name = &option.sig.ident;
            let message =
                format!("`{builder}::{name}`: state its default, as in \"Defaults to 10.\"");
            found.push(text.breach(name.span().start().line, &message));
        }
    }
    found
}

fn builder_name(self_type: &syn::Type) -> Option<String> {
    let syn::Type::Path(path) = self_type else {
        return None;
    };
    let name = path.path.segments.last()?.ident.to_string();
    name.ends_with("Builder").then_some(name)
}

/// Returns a public method that takes and returns a builder. `without_*` states its default.
fn option(item: &syn::ImplItem) -> Option<&syn::ImplItemFn> {
    let syn::ImplItem::Fn(method) = item else {
        return None;
    };
    let takes_self = method
        .sig
        .receiver()
        .is_some_and(|receiver| receiver.reference.is_none());
    let is_public = matches!(method.vis, syn::Visibility::Public(_));
    let turns_off = method.sig.ident.to_string().starts_with("without_");
    let returned = match &method.sig.output {
        syn::ReturnType::Type(_, returned) => returned,
        syn::ReturnType::Default => return None,
    };
    let returns_builder =
        returned_type(returned).is_some_and(|name| name == "Self" || name.ends_with("Builder"));
    (takes_self && is_public && !turns_off && returns_builder).then_some(method)
}

/// Returns the name of a type; of a `Result`, that of the success.
fn returned_type(returned: &syn::Type) -> Option<String> {
    let syn::Type::Path(path) = returned else {
        return None;
    };
    let last = path.path.segments.last()?;
    match &last.arguments {
        syn::PathArguments::AngleBracketed(arguments) if last.ident == "Result" => {
            match arguments.args.first()? {
                syn::GenericArgument::Type(success) => returned_type(success),
                _ => None,
            }
        }
        _ => Some(last.ident.to_string()),
    }
}

fn states_default(attributes: &[syn::Attribute]) -> bool {
    let lines = attributes.iter().filter_map(doc_line);
    let docs = lines.collect::<Vec<_>>().join("\n").to_lowercase();
    docs.trim_start().starts_with("adds ") || DEFAULTS.iter().any(|phrase| docs.contains(phrase))
}

fn doc_line(attribute: &syn::Attribute) -> Option<String> {
    let syn::Meta::NameValue(meta) = &attribute.meta else {
        return None;
    };
    match &meta.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(line),
            ..
        }) if meta.path.is_ident("doc") => Some(line.value()),
        _ => None,
    }
}
