//! Privacy groups: made here, announced to the members that they concern.

use std::collections::BTreeSet;

use quorate_enclave::{GroupId, NewGroup, PrivacyGroup, PublicKey};

use crate::clock::now_ms;
use crate::wire::{Answer, GroupItem, Request};
use crate::{Exchange, ExchangeError, GroupCreated, MemberKeys, Unacknowledged};

impl Exchange {
    /// Makes a privacy group and tells the members with a key in it. Making it again tells them again.
    ///
    /// # Errors
    /// [`ExchangeError::Group`], [`ExchangeError::UnknownRecipient`] for a key that no member has.
    pub async fn create_group(&self, new: NewGroup) -> Result<GroupCreated, ExchangeError> {
        let members = self.members();
        let known =
            |key: &&PublicKey| Self::owner(&members, key).is_none() && !self.is_own(&members, key);
        if new.members.iter().any(|key| known(&key)) {
            self.keys().await?;
        }
        if let Some(key) = new.members.iter().find(known) {
            return Err(ExchangeError::UnknownRecipient { key: *key });
        }
        let made = self.blocking(move |inner| Ok(inner.groups.create(new, now_ms())?));
        let group = made.await?;
        let request = Request::Group(GroupItem {
            name: group.name.clone(),
            description: group.description.clone(),
            payloads_live_ms: group.payloads_live_ms.unwrap_or(0),
            members: group.members.iter().copied().collect(),
        });
        let concerned = members
            .iter()
            .filter(|m| !m.this && group.members.iter().any(|key| m.has(key)));
        let told = concerned.map(|member| self.tell(member, &request));
        let not_told = futures::future::join_all(told).await;
        Ok(GroupCreated {
            group,
            not_told: not_told.into_iter().flatten().collect(),
        })
    }

    async fn tell(&self, member: &MemberKeys, request: &Request) -> Option<Unacknowledged> {
        let reason = match self.ask_for(member.raft_id, request).await {
            Ok(Answer::Noted) => return None,
            Ok(Answer::Refused { text, .. }) => text,
            Ok(other) => format!("it answers {}", other.name()),
            Err(e) => e.to_string(),
        };
        Some(Unacknowledged {
            raft_id: member.raft_id,
            node: member.node,
            organisation: member.organisation.clone(),
            reason,
        })
    }

    /// A privacy group by its id.
    ///
    /// # Errors
    /// [`ExchangeError::Group`].
    pub fn group(&self, id: &GroupId) -> Result<Option<PrivacyGroup>, ExchangeError> {
        Ok(self.inner.groups.get(id)?)
    }

    /// The group that a user means by this id or name.
    ///
    /// # Errors
    /// [`ExchangeError::Group`]: there is none, or several have this name.
    pub fn resolve_group(&self, name_or_id: &str) -> Result<PrivacyGroup, ExchangeError> {
        Ok(self.inner.groups.resolve(name_or_id)?)
    }

    /// Groups by rising id, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// [`ExchangeError::Group`].
    pub fn groups(
        &self,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, ExchangeError> {
        Ok(self.inner.groups.list(after, limit)?)
    }

    /// Groups with exactly these members, at most `limit`.
    ///
    /// # Errors
    /// [`ExchangeError::Group`].
    pub fn find_groups(
        &self,
        members: &BTreeSet<PublicKey>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, ExchangeError> {
        Ok(self.inner.groups.find(members, limit)?)
    }

    /// Deletes a group here; other members keep it, and its payloads stay. Returns what it was.
    ///
    /// # Errors
    /// [`ExchangeError::Group`].
    pub async fn delete_group(&self, id: GroupId) -> Result<Option<PrivacyGroup>, ExchangeError> {
        self.blocking(move |inner| Ok(inner.groups.delete(&id)?))
            .await
    }
}
