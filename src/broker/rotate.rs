//! Changing values that last: when they are due, or when an operator says so. On the record before it is done, and how it went after.
//!
//! A failure is told in four places: the daemon's log, the record, the figures, and `clav status`.

use super::{
    Act, Broker, Fault, Operator, Stop,
    rota::{Entry, Now, Rota, Step},
};
use crate::{
    audit::{Event, Kind, Need, Outcome},
    engine::{Engine, EngineError, Standing, Version},
    model::{Code, EndsBy, EngineName, Refusal, RequestId, SecretDefinition, SecretName},
    wire::{RotationAnswer, RotationRow},
};
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

/// Between two looks at what is due.
const TICK: Duration = Duration::from_secs(1);

/// Everything about changing values.
#[derive(Default)]
pub(super) struct Rotations {
    rota: Mutex<Rota>,
    /// Held while a value of that engine is changed, or looked at: what a look saw is over when a change begins.
    turns: Mutex<BTreeMap<EngineName, Arc<tokio::sync::Mutex<()>>>>,
}

impl Rotations {
    /// Each lock is held for a few lines that leave nothing half changed.
    fn rota(&self) -> MutexGuard<'_, Rota> {
        self.rota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, engine: &EngineName) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(engine.clone()).or_default().clone()
    }
}

impl Broker {
    /// Looks at values and changes those that are due, for ever.
    pub(super) async fn keep_rotating(self: Arc<Self>) {
        while !self.closed.load(Ordering::Acquire) {
            tokio::time::sleep(TICK).await;
            // A freeze stops what nobody asked for; looking goes on.
            let may_change = !self.is_frozen() || crate::mutation!("rotate-frozen");
            let steps = {
                let mut rota = self.rotations.rota();
                self.load_rota(&mut rota);
                rota.next(self.moment(), may_change)
            };
            for step in steps {
                let (broker, taken) = (self.clone(), step.secret().clone());
                tokio::spawn(async move {
                    if tokio::spawn(broker.clone().take(step)).await.is_err() {
                        // Its engine would never have a turn again.
                        let why = "a look at it ended before its time".to_owned();
                        broker.rotations.rota().looked(&taken, Standing::default(), Err(why), broker.moment());
                    }
                });
            }
        }
    }

    fn moment(&self) -> Now {
        Now { wall: self.clock.wall(), boot: self.clock.boot() }
    }

    /// Values that last, as far as somebody wants them changed or can change them.
    fn load_rota(&self, rota: &mut Rota) {
        let governance = self.governance();
        rota.load(governance.generation, || {
            let rows = governance.catalogue.iter().filter(|row| row.ends_by == EndsBy::None);
            rows.filter_map(|row| {
                let can_rotate = self.engines.find(&row.engine)?.can_rotate(row);
                (can_rotate || row.rotate.is_some()).then(|| Entry { secret: row.clone(), can_rotate })
            })
            .collect()
        });
    }

    async fn take(self: Arc<Self>, step: Step) {
        match step {
            Step::Look(secret) => self.look(&secret).await,
            Step::Rotate(secret) => drop(self.change(&secret, self.request_id()).await),
            Step::Late(secret, due) => {
                let late = due.late.rfc3339();
                tracing::error!(secret = %secret.name, engine = %secret.engine, late, "a value is too old: it should have been changed");
                let text = format!("the value should have been changed by {late}");
                let event = failed(&Refusal::new(Code::NOT_ROTATED).detail(text));
                self.note_rotation(event.secret(&secret, None)).await;
            }
        }
    }

    async fn look(&self, secret: &Arc<SecretDefinition>) {
        let turn = self.rotations.turn(&secret.engine);
        let _turn = turn.lock().await;
        let (found, kept) = match self.engines.find(&secret.engine) {
            Some(engine) => (engine.newest(secret).await, engine.standing(secret)),
            None => (Err(EngineError::Setup("the engine is not configured".into())), Standing::default()),
        };
        let why = found.as_ref().err().map(ToString::to_string);
        let news = self.rotations.rota().looked(secret, kept, found.map_err(|error| error.to_string()), self.moment());
        if let Some(why) = why.filter(|_| news) {
            tracing::error!(secret = %secret.name, engine = %secret.engine, error = why, "a value that is given does not work, or cannot be looked at");
            let event = failed(&Refusal::new(Code::ENGINE_UNAVAILABLE).detail(why));
            self.note_rotation(event.secret(secret, None)).await;
        }
    }

    /// Changes the value of a secret. In a task of its own: whoever asked may go, no change stays half done.
    async fn change(self: &Arc<Self>, secret: &Arc<SecretDefinition>, request: RequestId) -> Result<Version, Stop> {
        let (broker, secret) = (self.clone(), secret.clone());
        let changing = secret.clone();
        let task = tokio::spawn(async move {
            let secret = changing;
            // One at a time for each engine: what is wrong with one is seen before the next is touched.
            let turn = broker.rotations.turn(&secret.engine);
            let _turn = turn.lock().await;
            broker.change_now(&secret, request).await
        });
        task.await.unwrap_or_else(|_| {
            // The engine is free for the next one, and what happened is told as any other failure.
            self.rotations.rota().rotated(&secret, Err("the change broke off: a fault of the program's own".to_owned()), self.moment());
            Err(Fault::Task.into())
        })
    }

    async fn change_now(&self, secret: &Arc<SecretDefinition>, request: RequestId) -> Result<Version, Stop> {
        let about = |event: Event, version: Option<u64>| event.request(request).secret(secret, version);
        let begun = about(Event::new(Kind::Rotate).outcome(Outcome::Begun), None);
        if !crate::mutation!("rotate-recorded") {
            // What is not on the record is not done.
            if let Err(error) = self.audit.append(begun, Need::Durable).await {
                tracing::error!(secret = %secret.name, %error, "a value is due and cannot be changed: that cannot be put on the record");
                self.rotations.rota().rotated(secret, Err(error.to_string()), self.moment());
                return Err(error.into());
            }
        }
        let done = match self.engines.find(&secret.engine) {
            Some(_) if !self.is_defined(secret) => Err(EngineError::Setup("its definition is gone".into())),
            Some(engine) => self.rotate_by(&**engine, secret, request).await,
            None => Err(EngineError::Setup("the engine is not configured".into())),
        };
        let known = done.as_ref().map(|version| *version).map_err(ToString::to_string);
        self.rotations.rota().rotated(secret, known, self.moment());
        self.metrics.rotated(done.is_ok());
        match &done {
            Ok(version) => {
                tracing::info!(secret = %secret.name, engine = %secret.engine, version = version.number, "a value was changed");
                self.rotated(&secret.name);
                self.note_rotation(about(Event::new(Kind::Rotate).outcome(Outcome::Done), Some(version.number))).await;
            }
            Err(error) => {
                tracing::error!(secret = %secret.name, engine = %secret.engine, %error, "a value could not be changed; it is tried again");
                let refusal = Refusal::new(Code::NOT_ROTATED).detail(error.to_string());
                self.note_rotation(about(failed(&refusal), None)).await;
            }
        }
        done.map_err(Stop::from)
    }

    /// Whether the row that is to be changed is still there: it may have been taken away while others had their turn.
    fn is_defined(&self, secret: &SecretDefinition) -> bool {
        self.governance().catalogue.find(&secret.name).is_some_and(|row| row.engine == secret.engine)
    }

    /// Has the value changed. What is taken back meanwhile goes on the record soon, however long the change takes.
    async fn rotate_by(&self, engine: &dyn Engine, secret: &SecretDefinition, request: RequestId) -> Result<Version, EngineError> {
        let mut changing = pin!(engine.rotate(secret));
        let done = loop {
            match tokio::time::timeout(TICK, &mut changing).await {
                Ok(done) => break done,
                Err(_) => self.note_taken(engine, &secret.engine, request).await,
            }
        };
        self.note_taken(engine, &secret.engine, request).await;
        done
    }

    async fn note_taken(&self, engine: &dyn Engine, name: &EngineName, request: RequestId) {
        for taken in engine.taken_back() {
            self.note_rotation(self.retired(name, taken, request)).await;
        }
    }

    /// A secret has a new value: the one place where that becomes known. Whoever has a lease of it and watches is told.
    pub(super) fn rotated(&self, secret: &SecretName) {
        tracing::debug!(%secret, "a new value is given from now on");
        self.watchers.tell_all();
    }

    /// How it went. It is done by now, whatever becomes of the record.
    pub(super) async fn note_rotation(&self, event: Event) {
        if let Err(error) = self.audit.append(event, Need::Durable).await {
            tracing::error!(%error, "how a change of a value went is not on the record");
        }
    }

    /// An operator changes a value now. A freeze does not keep a person from it: that is when it is needed.
    pub async fn rotate_secret(
        self: &Arc<Self>,
        operator: Operator,
        name: SecretName,
        request: RequestId,
    ) -> Result<RotationAnswer, Refusal> {
        let broker = self.clone();
        let task = tokio::spawn(async move { broker.rotate_asked(&operator, &name, request).await });
        task.await.unwrap_or_else(|_| Err(Stop::from(Fault::Task).refusal()))
    }

    async fn rotate_asked(self: &Arc<Self>, operator: &Operator, name: &SecretName, request: RequestId) -> Result<RotationAnswer, Refusal> {
        let governance = self.governance();
        let secret = governance
            .catalogue
            .find(name)
            .ok_or_else(|| Refusal::new(Code::NOT_FOUND).message(format!("No definition in secrets.d names {name}.")))?;
        if !self.may_end() {
            let why = self.read_only().unwrap_or("it is stopping");
            return Err(Refusal::new(Code::READ_ONLY).message(format!("Nothing is changed: {why}.")));
        }
        let engine: &Arc<dyn Engine> = self.engine(&secret.engine).map_err(|stop| stop.refusal())?;
        if !engine.can_rotate(secret) {
            // It says what to do instead, and does nothing.
            let why = engine.rotate(secret).await.err().map(|error| error.to_string()).unwrap_or_default();
            return Err(Refusal::new(Code::NOT_ROTATED).message(format!("{name} is not changed by claviger: {why}.")));
        }
        let act = Act::new("secret-rotate", request).of(name);
        self.asked(operator, &act).await?;
        let done = self.change(secret, request).await.map_err(|stop| {
            let refusal = stop.refusal();
            let why = refusal.detail.clone().unwrap_or_else(|| refusal.message.to_string());
            Refusal::new(Code::NOT_ROTATED).message(format!("The value of {name} was not changed: {why}."))
        });
        self.acted(operator, &act, done.as_ref().err()).await;
        let version = done?;
        Ok(RotationAnswer { request, name: name.clone(), version: version.number, made: version.made.rfc3339() })
    }

    /// How values that last stand.
    pub fn list_rotations(&self) -> Vec<RotationRow> {
        let mut rota = self.rotations.rota();
        self.load_rota(&mut rota);
        rota.view(self.clock.wall())
    }

    /// A value of the local store is new: whoever waits for its change need wait no longer.
    pub(super) fn stored(&self, name: &SecretName, number: u64) {
        let governance = self.governance();
        let is_local = |row: &SecretDefinition| self.engines.find(&row.engine).is_some_and(|engine| engine.kind() == "local");
        if let Some(secret) = governance.catalogue.find(name).filter(|row| row.rotate.is_some() && is_local(row)) {
            let version = Version { number, made: self.clock.wall() };
            let mut rota = self.rotations.rota();
            self.load_rota(&mut rota);
            rota.rotated(secret, Ok(version), self.moment());
        }
        self.rotated(name);
    }
}

fn failed(refusal: &Refusal) -> Event {
    Event::new(Kind::Rotate).outcome(Outcome::Failed).refusal(refusal)
}
