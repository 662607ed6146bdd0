use super::super::testing::{
    FakeFolder, MOUNT, deny, groups, place, put_other_into, steal, steal_late, withhold, written,
};
use super::*;

type FakeGroup = Group<FakeFolder>;

const NAME: &str = "mayfly-1";
const SCOPE: &str = "/cg/user/scope";

const BOTH: CpuShare = CpuShare {
    weight: Some(200),
    limit: Some(150),
};

/// Enters a group, which is then dropped again; what was written before and after that.
fn enter_and_leave(own: &Hierarchy) -> (Vec<String>, Vec<String>) {
    let own = std::slice::from_ref(own);
    let group = FakeGroup::enter(own, NAME, BOTH).unwrap();
    let entered = written();
    assert_eq!(place(), group.path());
    drop(group);
    (entered, written())
}

/// What [`Group::enter`] says where it cannot; nothing is changed by it.
#[track_caller]
fn refused(own: &Hierarchy) -> CgroupError {
    let (before, at) = (groups(), place());
    let error = FakeGroup::enter(std::slice::from_ref(own), NAME, BOTH).unwrap_err();
    assert_eq!((groups(), place()), (before, at), "{error}");
    error
}

#[test]
fn outside_of_all_cgroups_the_controller_is_enabled_and_stays_so() {
    let own = FakeFolder::root().start_in("");
    let (entered, left) = enter_and_leave(&own);
    assert_eq!(
        entered,
        [
            "/cg/mayfly-1/cgroup.procs 0",
            "/cg/cgroup.subtree_control +cpu",
            "/cg/mayfly-1/cpu.weight 200",
            "/cg/mayfly-1/cpu.max 150000 100000",
        ]
    );
    assert_eq!(left, ["/cg/cgroup.procs 0"]);
    assert_eq!(groups(), [(MOUNT.to_owned(), true)]);
    // The next one finds it enabled.
    let (entered, _) = enter_and_leave(&own);
    assert!(!entered.iter().any(|line| line.contains("+cpu")));
}

#[test]
fn alone_in_a_scope_it_goes_below_and_the_scope_becomes_what_it_was() {
    let own = FakeFolder::root().start_in("user/scope");
    let before = groups();
    let (entered, left) = enter_and_leave(&own);
    // No processes where controllers are given out: it moves first.
    assert_eq!(
        entered[..2],
        [
            "/cg/user/scope/mayfly-1/cgroup.procs 0",
            "/cg/user/scope/cgroup.subtree_control +cpu",
        ]
    );
    assert_eq!(
        left,
        [
            "/cg/user/scope/cgroup.subtree_control -cpu",
            "/cg/user/scope/cgroup.procs 0",
        ]
    );
    assert_eq!((groups(), place()), (before, SCOPE.into()));
    let group = FakeGroup::enter(&[own], NAME, BOTH).unwrap();
    assert!(group.is_alone());
}

#[test]
fn beside_other_processes_it_goes_beside_their_cgroup() {
    let own = FakeFolder::root().start_in("user/scope");
    put_other_into(SCOPE);
    let before = groups();
    let group = FakeGroup::enter(std::slice::from_ref(&own), NAME, BOTH).unwrap();
    assert_eq!(group.path(), Path::new("/cg/user/mayfly-1"));
    assert!(!group.is_alone());
    drop(group);
    assert_eq!((groups(), place()), (before, SCOPE.into()));
}

#[test]
fn a_session_without_the_controller_leads_to_the_top() {
    let own = FakeFolder::root().start_in("user/scope");
    withhold("/cg/user");
    let group = FakeGroup::enter(&[own], NAME, BOTH).unwrap();
    assert_eq!(group.path(), Path::new("/cg/mayfly-1"));
    assert!(!group.is_alone());
}

#[test]
fn a_container_with_others_in_it_is_left_as_it_is() {
    let own = FakeFolder::root().namespace().start_in("");
    put_other_into(MOUNT);
    let error = refused(&own);
    assert!(matches!(error, CgroupError::Enable(..)), "{error:?}");
}

#[test]
fn who_may_not_is_told_of_his_own_cgroup_and_nothing_changes() {
    let own = FakeFolder::root().start_in("user/scope");
    for path in [MOUNT, "/cg/user", SCOPE] {
        deny(path);
    }
    let line = refused(&own).to_string();
    assert_eq!(line, "cannot make a cgroup in '/cg/user/scope'");
}

#[test]
fn who_could_not_come_back_does_not_go() {
    let own = FakeFolder::root().version_1().start_in("vms");
    deny("/cg/vms/cgroup.procs");
    let error = refused(&own);
    assert!(matches!(error, CgroupError::Open(..)), "{error:?}");
}

#[test]
fn a_group_that_cannot_be_entered_is_removed() {
    let own = FakeFolder::root().start_in("");
    deny("/cg/mayfly-1");
    let error = refused(&own);
    assert!(matches!(error, CgroupError::Enter(..)), "{error:?}");
}

#[test]
fn a_group_that_was_left_or_vanishes_is_made_again() {
    let root = FakeFolder::root();
    root.make(NAME).unwrap();
    let own = root.start_in("");
    enter_and_leave(&own);
    steal(2);
    enter_and_leave(&own);
    steal(u32::MAX);
    let error = FakeGroup::enter(&[own], NAME, BOTH).unwrap_err();
    assert!(matches!(error, CgroupError::Enter(..)), "{error:?}");
}

#[test]
fn with_version_1_the_values_come_first() {
    let own = FakeFolder::root().version_1().start_in("vms");
    let before = groups();
    let (entered, left) = enter_and_leave(&own);
    assert_eq!(
        entered,
        [
            "/cg/vms/mayfly-1/cpu.shares 2048",
            "/cg/vms/mayfly-1/cpu.cfs_period_us 100000",
            "/cg/vms/mayfly-1/cpu.cfs_quota_us 150000",
            "/cg/vms/mayfly-1/cgroup.procs 0",
        ]
    );
    assert_eq!(left, ["/cg/vms/cgroup.procs 0"]);
    assert_eq!((groups(), place()), (before, "/cg/vms".into()));
}

#[test]
fn with_version_1_a_group_that_is_made_again_has_its_values_again() {
    let own = FakeFolder::root().version_1().start_in("vms");
    let (as_ever, _) = enter_and_leave(&own);
    // Gone before it has them.
    steal(1);
    assert_eq!(enter_and_leave(&own).0, as_ever);
    // Gone with them.
    steal_late(2);
    let (values, _) = as_ever.split_at(as_ever.len() - 1);
    let expected = [values, values, &as_ever].concat();
    assert_eq!(enter_and_leave(&own).0, expected);
    steal_late(u32::MAX);
    let error = FakeGroup::enter(&[own], NAME, BOTH).unwrap_err();
    assert!(matches!(error, CgroupError::Enter(..)), "{error:?}");
}

#[test]
fn the_least_and_the_most_are_within_what_kernels_take() {
    let share = |n| CpuShare {
        weight: Some(n),
        limit: Some(n),
    };
    let text = |version, n| {
        values(version, share(n))
            .into_iter()
            .map(|(_, value)| value)
    };
    let all = |version, n| text(version, n).collect::<Vec<_>>();
    // At least 2 (MIN_SHARES) and 1,000 µs.
    assert_eq!(all(Version::V1, 1), ["10", "100000", "1000"]);
    assert_eq!(all(Version::V2, 1), ["1", "1000 100000"]);
    assert_eq!(all(Version::V1, 10_000), ["102400", "100000", "10000000"]);
    assert_eq!(values(Version::V2, CpuShare::default()), []);
}

#[test]
fn the_survey_finds_what_entering_takes() {
    let survey = |own: &Hierarchy| super::survey::<FakeFolder>(std::slice::from_ref(own));
    let own = FakeFolder::root().start_in("user/scope");
    let before = groups();
    assert_eq!(survey(&own).unwrap(), (Version::V2, SCOPE.into()));
    withhold("/cg/user");
    assert_eq!(survey(&own).unwrap().1, Path::new(MOUNT));
    deny(MOUNT);
    assert!(matches!(survey(&own), Err(CgroupError::Make(..))));
    withhold(MOUNT);
    assert!(matches!(survey(&own), Err(CgroupError::Make(..))));
    assert_eq!(written(), [] as [&str; 0]);
    assert_eq!(groups().len(), before.len());
}

#[test]
fn of_two_hierarchies_the_one_with_the_controller_counts() {
    let unified = Hierarchy {
        version: Version::V2,
        mount: "/cg/unified".into(),
        own: "/cg/unified".into(),
    };
    let own = FakeFolder::root().start_in("unified");
    withhold(MOUNT);
    let alone = FakeGroup::enter(std::slice::from_ref(&unified), NAME, BOTH);
    assert!(matches!(alone, Err(CgroupError::NoController(_))));
    let version_1 = Hierarchy {
        version: Version::V1,
        mount: MOUNT.into(),
        own: MOUNT.into(),
    };
    deny(MOUNT);
    let told = FakeGroup::enter(&[unified, version_1], NAME, BOTH).unwrap_err();
    assert!(!matches!(told, CgroupError::NoController(_)), "{told:?}");
    drop(own);
}
