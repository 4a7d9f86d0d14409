//! Enhanced authentication: who answers the questions of a shard.

use std::sync::Arc;

use petrel_shard::{Asks, Question, Verdict};

/// One method of the enhanced authentication of MQTT 5.
///
/// It is asked on a shard's own thread, so it must not block; the state of an exchange is its own,
/// by connection.
pub trait AuthMethod: Send + Sync {
    /// The name that a client puts into Authentication Method.
    fn name(&self) -> &str;

    /// Answers one step of an exchange.
    fn step(&self, question: &Question) -> Verdict;
}

/// The methods that a broker answers for; none unless some are added.
#[derive(Clone, Default)]
pub struct AuthMethods(Vec<Arc<dyn AuthMethod>>);

impl AuthMethods {
    /// Adds a method.
    pub fn add(&mut self, method: Arc<dyn AuthMethod>) {
        self.0.push(method);
    }

    /// The names of all methods.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|method| method.name().to_owned()).collect()
    }

    /// The answer to a question about a step. A method that nobody answers for is refused; a shard asks only
    /// about those in [`AuthMethods::names`].
    #[must_use]
    pub fn answer(&self, question: &Question) -> Verdict {
        let asked = |it: &&Arc<dyn AuthMethod>| match &question.asks {
            Asks::Step { method, .. } => it.name() == method.as_str(),
            Asks::Credentials(_) => false,
        };
        match self.0.iter().find(asked) {
            Some(method) => method.step(question),
            None => Verdict::Refuse { reason: petrel_proto::ReasonCode::BadAuthenticationMethod },
        }
    }
}

impl std::fmt::Debug for AuthMethods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|method| method.name())).finish()
    }
}
