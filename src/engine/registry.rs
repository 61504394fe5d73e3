//! The engines of this host by name.

use super::Engine;
use crate::model::{EngineName, SecretDefinition};
use std::{collections::BTreeMap, sync::Arc};

/// Every configured engine. Made once at start; a name always means the same engine.
#[derive(Clone, Default)]
pub struct Engines {
    rows: BTreeMap<EngineName, Arc<dyn Engine>>,
}

impl Engines {
    /// Takes engines; a name given twice is returned as the error.
    pub fn new(engines: Vec<(EngineName, Arc<dyn Engine>)>) -> Result<Self, EngineName> {
        let mut rows = BTreeMap::new();
        for (name, engine) in engines {
            if rows.insert(name.clone(), engine).is_some() {
                return Err(name);
            }
        }
        Ok(Self { rows })
    }

    /// The engine of that name.
    pub fn find(&self, name: &EngineName) -> Option<&Arc<dyn Engine>> {
        self.rows.get(name)
    }

    /// All engines, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&EngineName, &Arc<dyn Engine>)> {
        self.rows.iter()
    }

    /// What each name is: `local`, `jwt`, `postgres`, ...
    pub fn kinds(&self) -> impl Iterator<Item = (&EngineName, &'static str)> {
        self.rows.iter().map(|(name, engine)| (name, engine.kind()))
    }

    /// Checks a definition against the engine it names; the text says what is wrong.
    pub fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        match self.find(&secret.engine) {
            None => Err(format!("{}: there is no engine {}", secret.name, secret.engine)),
            Some(engine) => {
                engine.check(secret)?;
                let (ends_by, narrows) = (engine.ends_by(secret), engine.narrows(secret));
                if ends_by != secret.ends_by {
                    return Err(format!("{}: ends_by is {}, its engine's is {ends_by}", secret.name, secret.ends_by));
                }
                if narrows != secret.narrows {
                    return Err(format!("{}: narrows to {:?}, its engine to {narrows:?}", secret.name, secret.narrows));
                }
                Ok(())
            }
        }
    }
}
