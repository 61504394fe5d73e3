//! The template and how it is filled in.

use super::Failure;
use crate::client::Delivered;
use base64::{Engine, engine::general_purpose::STANDARD};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zeroize::Zeroizing;

/// A template that was parsed.
pub(super) struct Page {
    environment: Environment<'static>,
    values: Arc<Mutex<Values>>,
    hint: Hint,
}

/// Which secret was asked last for something that it does not have, and what it has: the engine says neither.
type Hint = Arc<Mutex<Option<String>>>;

/// What the template's function answers from.
#[derive(Default)]
struct Values {
    known: BTreeMap<String, Value>,
    lacks: Option<String>,
}

/// What came of filling it in.
pub(super) enum Written {
    /// The text.
    Whole(Zeroizing<String>),
    /// This secret is not there yet.
    Lacks(String),
}

/// The name under which the only template is kept.
const PAGE: &str = "template";

impl Page {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // It is a file of any kind: nothing is escaped behind anybody's back.
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(Failure::fault)?);
        let values = Arc::new(Mutex::<Values>::default());
        let asked = values.clone();
        environment.add_function("secret", move |name: &str| -> Result<Value, Error> {
            let mut values = lock(&asked);
            match values.known.get(name) {
                Some(value) => Ok(value.clone()),
                None => {
                    values.lacks = Some(name.to_owned());
                    Err(Error::new(ErrorKind::InvalidOperation, "is fetched first"))
                }
            }
        });
        environment
            .add_template_owned(PAGE, text)
            .map_err(|error| Failure::Usage(format!("{}:{}: {error}", path.display(), error.line().unwrap_or(0))))?;
        Ok(Self { environment, values, hint: Hint::default() })
    }

    /// Fills it in with these values, or says which one it lacks first.
    pub(super) fn fill(&self, values: &BTreeMap<String, Delivered>) -> Result<Written, Failure> {
        *lock(&self.hint) = None;
        let known = |(name, delivered): (&String, _)| (name.clone(), Value::from_object(Secret::of(name, delivered, &self.hint)));
        let known = values.iter().map(known).collect();
        *lock(&self.values) = Values { known, lacks: None };
        let filled = self.environment.get_template(PAGE).and_then(|page| page.render(context! {})).map(Zeroizing::new);
        let lacks = std::mem::take(&mut *lock(&self.values)).lacks;
        match (filled, lacks) {
            (_, Some(name)) => Ok(Written::Lacks(name)),
            (Ok(text), None) => Ok(Written::Whole(text)),
            // What the engine says names places and members, never values.
            (Err(error), None) => {
                let hint = lock(&self.hint).take().map_or_else(String::new, |hint| format!(": {hint}"));
                Err(Failure::Usage(format!("the template, line {}: {error}{hint}", error.line().unwrap_or(0))))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One secret as the template sees it: itself is the value, and its members are what is beside it.
struct Secret {
    name: String,
    hint: Hint,
    text: Option<Zeroizing<String>>,
    base64: Zeroizing<String>,
    beside: BTreeMap<String, String>,
}

impl Secret {
    fn of(name: &str, delivered: &Delivered, hint: &Hint) -> Self {
        let bytes = delivered.value.expose();
        let text = std::str::from_utf8(bytes).ok().map(|text| Zeroizing::new(text.to_owned()));
        let (name, hint) = (name.to_owned(), hint.clone());
        Self { name, hint, text, base64: Zeroizing::new(STANDARD.encode(bytes)), beside: delivered.attributes.clone() }
    }

    fn member(&self, name: &str) -> Option<Value> {
        match name {
            "value" => self.text.as_ref().map(|text| Value::from(text.as_str())),
            "base64" => Some(Value::from(self.base64.as_str())),
            name => self.beside.get(name).map(Value::from),
        }
    }

    /// Says what there is. What was asked for is not said: a template may take that from a value.
    fn note_missing(&self) {
        let (value, why) =
            if self.text.is_some() { (Some("value"), "has no such member") } else { (None, "has no such member, or is no text") };
        let there: Vec<&str> = value.into_iter().chain(["base64"]).chain(self.beside.keys().map(String::as_str)).collect();
        *lock(&self.hint) = Some(format!("{} {why}: it has {}", self.name, there.join(", ")));
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a secret")
    }
}

impl minijinja::value::Object for Secret {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        let member = self.member(name);
        if member.is_none() {
            self.note_missing();
        }
        member
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is no text has no value to print, only its base64.
        f.write_str(self.text.as_ref().ok_or_else(|| {
            self.note_missing();
            std::fmt::Error
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::template::tests::delivered;

    fn filled(template: &str, values: &[(&str, &[u8])]) -> Result<Written, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), template).unwrap();
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), delivered(name, value))).collect();
        Page::read(file.path())?.fill(&values)
    }

    fn whole(template: &str, values: &[(&str, &[u8])]) -> String {
        match filled(template, values) {
            Ok(Written::Whole(text)) => text.to_string(),
            Ok(Written::Lacks(name)) => panic!("lacks {name}"),
            Err(failure) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn values_stand_where_the_template_names_them_and_nothing_is_escaped() {
        let text = whole("pw={{ secret(\"db/ro\") }} u={{ secret('db/ro').username }}\n", &[("db/ro", b"<&'\"\\>")]);
        assert_eq!(text, "pw=<&'\"\\> u=someone\n");
        assert_eq!(whole("{{ secret('k').base64 }}", &[("k", b"\xff\x00")]), "/wA=");
        assert_eq!(whole("{% if secret('k').value == 'on' %}yes{% endif %}", &[("k", b"on")]), "yes");
    }

    #[test]
    fn what_is_missing_is_named_one_by_one() {
        assert!(matches!(filled("{{ secret('a') }}{{ secret('b') }}", &[("a", b"1")]), Ok(Written::Lacks(name)) if name == "b"));
    }

    #[test]
    fn mistakes_are_told_with_their_line_and_without_values() {
        for wrong in ["a\n{{ secret('k') ", "a\n{{ nobody }}", "a\n{{ secret('k').nothing }}", "a\n{{ secret('bytes') }}"] {
            let Err(Failure::Usage(text)) = filled(wrong, &[("k", b"canary"), ("bytes", b"canary\xff")]) else { panic!("{wrong}") };
            assert!(text.contains('2') && !text.contains("canary"), "{wrong}: {text}");
        }
    }

    #[test]
    fn of_a_member_that_is_not_there_it_says_what_there_is() {
        let told = |template: &str| match filled(template, &[("k", b"canary"), ("bytes", b"canary\xff")]) {
            Err(Failure::Usage(text)) => text,
            _ => panic!("{template}"),
        };
        assert!(told("{{ secret('k').usernam }}").ends_with(": k has no such member: it has value, base64, username"));
        assert!(!told("{{ secret('k')[secret('k').value] }}").contains("canary"));
        for bytes in ["{{ secret('bytes') }}", "{{ secret('bytes').value }}"] {
            assert!(told(bytes).ends_with(": bytes has no such member, or is no text: it has base64, username"), "{}", told(bytes));
        }
        // Whoever asks first is not told.
        assert_eq!(whole("{% if secret('k').usernam is defined %}1{% endif %}2", &[("k", b"1")]), "2");
    }
}
