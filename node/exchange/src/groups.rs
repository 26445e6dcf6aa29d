//! Privacy groups: made here, announced to the members that they concern, asked for by one that lost its disk.

use std::collections::BTreeSet;

use quorate_enclave::{GroupError, GroupId, NewGroup, PrivacyGroup, PublicKey};

use crate::answer::failed;
use crate::clock::now_ms;
use crate::fetch::FetchFailed;
use crate::wire::{Answer, GROUPS_MAX, GroupItem, RefusalCode, Request};
use crate::{Exchange, ExchangeError, GroupCreated, MemberKeys, Unacknowledged};

/// Most pages of the groups that a member tells of.
const PAGES_MAX: usize = 10_000;

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
        let request = Request::Group(item(group.clone()));
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

    /// A member says that there is a group with a key of ours.
    pub(crate) async fn learn_group(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        group: GroupItem,
    ) -> Answer {
        match self.learn(members, member, group).await {
            Ok(Ok(())) => Answer::Noted,
            Ok(Err((code, text))) => Answer::refused(code, text),
            Err(e) => failed("learning a privacy group", &e),
        }
    }

    /// Makes a group that a member tells of, unless it is none of theirs and ours.
    async fn learn(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        group: GroupItem,
    ) -> Result<Result<(), (RefusalCode, String)>, ExchangeError> {
        let own = group.members.iter().any(|key| self.is_own(members, key));
        let theirs = |key: &PublicKey| self.belongs(members, member, key);
        if !own || !group.members.iter().any(theirs) {
            let text = "a group is announced to its members by one of them".to_owned();
            return Ok(Err((RefusalCode::NotAuthentic, text)));
        }
        let new = NewGroup {
            name: group.name,
            description: group.description,
            members: group.members.into_iter().collect(),
            payloads_live_ms: Some(group.payloads_live_ms).filter(|ms| *ms > 0),
        };
        let made = self.blocking(move |inner| Ok(inner.groups.create(new, now_ms())?));
        match made.await {
            Ok(_) => Ok(Ok(())),
            Err(ExchangeError::Group(e @ GroupError::Malformed { .. })) => {
                Ok(Err((RefusalCode::Malformed, e.to_string())))
            }
            Err(ExchangeError::Group(e @ GroupError::Full { .. })) => {
                Ok(Err((RefusalCode::Busy, e.to_string())))
            }
            Err(e) => Err(e),
        }
    }

    /// A page of the groups with a key of the asker's.
    pub(crate) async fn tell_groups(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        key: PublicKey,
        after: Option<GroupId>,
    ) -> Answer {
        if !self.belongs(members, member, &key) {
            return Answer::Groups { items: Vec::new() };
        }
        let page = self
            .blocking(move |inner| Ok(inner.groups.of_member(&key, after.as_ref(), GROUPS_MAX)?));
        match page.await {
            Ok(groups) => Answer::Groups {
                items: groups.into_iter().map(item).collect(),
            },
            Err(e) => failed("telling of privacy groups", &e),
        }
    }

    /// Learns from a member the groups with a key of ours, which were on a disk that is lost. Why it did not tell all, if it did not.
    pub(crate) async fn resync_groups(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        keys: &BTreeSet<PublicKey>,
    ) -> Result<Option<String>, ExchangeError> {
        for key in keys {
            match self.resync_groups_of(members, member, *key).await {
                Ok(()) => {}
                Err(FetchFailed::Here(e)) => return Err(e),
                Err(FetchFailed::Peer(reason)) => return Ok(Some(reason)),
            }
        }
        Ok(None)
    }

    async fn resync_groups_of(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        key: PublicKey,
    ) -> Result<(), FetchFailed> {
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let request = Request::Groups { key, after };
            let answer = self.ask_for(member.raft_id, &request).await;
            let items = match answer.map_err(|e| FetchFailed::Peer(e.to_string()))? {
                Answer::Groups { items } if items.is_empty() => return Ok(()),
                Answer::Groups { items } => items,
                Answer::Refused { text, .. } => return Err(FetchFailed::Peer(text)),
                other => {
                    let reason = format!("it answers {}", other.name());
                    return Err(FetchFailed::Peer(reason));
                }
            };
            for group in items {
                let keys = group.members.iter().copied().collect();
                let id = GroupId::of(self.inner.identity.chain_id, &group.name, &keys);
                if after.is_some_and(|after| id <= after) {
                    let reason = "its list of groups goes back to where it was".to_owned();
                    return Err(FetchFailed::Peer(reason));
                }
                after = Some(id);
                let learned = self.learn(members, member, group).await;
                if let Err((_, text)) = learned.map_err(FetchFailed::Here)? {
                    tracing::warn!(raft_id = member.raft_id, group = %id, reason = text, "a privacy group is not taken over");
                }
            }
        }
        Err(FetchFailed::Peer(
            "its list of groups does not end".to_owned(),
        ))
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

fn item(group: PrivacyGroup) -> GroupItem {
    GroupItem {
        name: group.name,
        description: group.description,
        payloads_live_ms: group.payloads_live_ms.unwrap_or(0),
        members: group.members.into_iter().collect(),
    }
}
