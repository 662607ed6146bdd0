use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<NetConfig, ConfigError> {
    NetConfig::parse(text)
}

#[test]
fn each_way_out_has_its_word() {
    let backend = |text| parse(text).unwrap().backend;
    assert_eq!(backend("tap=tap0"), NetBackend::Tap("tap0".to_owned()));
    assert_eq!(backend("tap=new"), NetBackend::NewTap);
    assert_eq!(backend("fd=3"), NetBackend::Descriptors(vec![3]));
    assert_eq!(backend("fd=3:5"), NetBackend::Descriptors(vec![3, 5]));
    assert_eq!(backend("user"), NetBackend::User { forwards: vec![] });
    let NetBackend::User { forwards } = backend("user,forward=tcp:1:2,forward=udp:3:4") else {
        panic!("user was asked for");
    };
    assert_eq!(forwards.len(), 2);
}

#[test]
fn every_option_arrives() {
    let text = "tap=t,mac=02:00:00:00:00:07,queues=2,mtu=9000,offload=off,bandwidth=10M,\
                packets=500,ip=10.0.0.2/24,gw=10.0.0.1";
    assert_eq!(
        parse(text),
        Ok(NetConfig {
            backend: NetBackend::Tap("t".to_owned()),
            mac: Some("02:00:00:00:00:07".parse().unwrap()),
            queues: Some(2),
            mtu: Some(9000),
            offload: Offload::Off,
            bandwidth: NonZeroU64::new(10 << 20),
            packets: NonZeroU64::new(500),
            ip: Some(StaticAddress {
                address: Ipv4Addr::new(10, 0, 0, 2),
                prefix: 24,
            }),
            gw: Some(Ipv4Addr::new(10, 0, 0, 1)),
        })
    );
}

#[test]
fn each_wrong_part_has_its_line() {
    for (text, says) in [
        ("", "'' is not an option"),
        ("mtu=1500", "needs a way out"),
        ("user,tap=new", "two of tap="),
        ("user,user", "two of tap="),
        ("tap=new,forward=tcp:1:2", "its own address"),
        ("user,forward=tcp:1", "is not a port forward"),
        ("user,speed=10", "'speed=10' is not an option"),
        ("user,bridge", "'bridge' is not an option"),
        ("user,mtu=1500,mtu=1400", "mtu= twice"),
        ("user,mac=1", "cannot be the MAC"),
        ("user,queues=two", "queues= takes a number"),
        ("user,offload=yes", "offload= takes on or off"),
        ("user,packets=0", "packets=0 would pass nothing"),
        ("user,bandwidth=fast", "'fast' is not a size"),
        ("user,ip=10.0.0.2", "with its prefix length"),
        ("user,ip=10.0.0.2/33", "with its prefix length"),
        ("user,gw=here", "'here' is not an IPv4"),
        ("fd=", "no list of descriptors"),
        ("fd=-1", "no list of descriptors"),
        ("fd=3,4", "'4' is not an option"),
    ] {
        let line = parse(text).unwrap_err().to_string();
        assert!(line.contains(says), "{text}: {line}");
    }
}

#[test]
fn what_the_machine_cannot_have_is_refused() {
    let check = |text: &str| parse(text).unwrap().check(2).map_err(|e| e.to_string());
    for good in ["tap=t,queues=2", "user,queues=1", "fd=3:4", "user,mtu=68"] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (text, says) in [
        ("tap=t,queues=3", "1 to 2"),
        ("tap=new,queues=0", "0 queue pairs"),
        ("user,queues=2", "use queues=1 to 1"),
        ("fd=3:4:5", "3 queue pairs"),
        ("fd=3,queues=2", "no list of descriptors"),
        ("user,mtu=67", "68 to 65535"),
        ("tap=", "cannot be the name"),
        ("tap=sixteen-letters-", "cannot be the name"),
        ("tap=a/b", "cannot be the name"),
        ("tap=tap%d", "cannot be the name"),
        ("user,gw=10.0.0.1", "gw= needs ip="),
    ] {
        let line = check(text).unwrap_err();
        assert!(line.contains(says), "{text}: {line}");
    }
}

#[test]
fn the_kernel_is_told_one_address() {
    let with = |text: &str| parse(text).unwrap();
    let one = with("tap=new,ip=10.0.0.2/24");
    let none = with("user");
    assert_eq!(check_together(&[one.clone(), none.clone()], false), Ok(()));
    assert_eq!(check_together(&[none], true), Ok(()));
    assert_eq!(
        check_together(&[one.clone(), one.clone()], false),
        Err(NetConfigError::TwoAddresses)
    );
    assert_eq!(
        check_together(&[one], true),
        Err(NetConfigError::AddressInCmdline)
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        if let Ok(net) = parse(&text) {
            let _ = net.check(1);
        }
    }
}
