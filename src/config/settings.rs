//! One description of each setting, from which all else follows.
//!
//! A section is declared with [`settings!`]: each line gives the field, its type, its default and its [`Form`], under the
//! comment that says what it is. From that come the struct, its `Default`, what the reader accepts, and the text of
//! `print-config`; none of them can say anything else than the others.

use secrecy::SecretString;

use super::form::Form;

/// A section whose settings a [`Visitor`] can go over, in the order in which they are declared.
pub(crate) trait Settings {
    /// Shows each setting to the visitor, which may look at it or change it.
    fn visit<V: Visitor>(&mut self, visitor: &mut V);
}

/// What goes over settings: the reader, and the writer.
pub(crate) trait Visitor {
    /// A setting: its key, its comment by lines, and its place.
    fn setting<F: Form>(&mut self, key: &'static str, doc: &[&str], value: &mut F::Value, form: &F);

    /// A secret that may be left out. It can also be given as `KEY_file` or `KEY_env`.
    fn secret(&mut self, key: &'static str, doc: &[&str], value: &mut Option<SecretString>);

    /// A section within the section.
    fn section<S: Settings>(&mut self, key: &'static str, doc: &[&str], value: &mut S);
}

/// Declares a section; see the module's comment.
macro_rules! settings {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $type:ty = $default:expr, as $form:expr;
            )*
        }
        $(sections {
            $(
                $(#[doc = $section_doc:literal])*
                $section:ident: $section_type:ty;
            )*
        })?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                pub $field: $type,
            )*
            $($(
                $(#[doc = $section_doc])*
                pub $section: $section_type,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($($section: Default::default(),)*)?
                }
            }
        }

        impl $crate::config::settings::Settings for $name {
            fn visit<V: $crate::config::settings::Visitor>(&mut self, visitor: &mut V) {
                $(visitor.setting(stringify!($field), &[$($doc),*], &mut self.$field, &$form);)*
                $($(visitor.section(stringify!($section), &[$($section_doc),*], &mut self.$section);)*)?
            }
        }
    };
}

pub(crate) use settings;
