//! The configurations that README.md and docs/CONFIGURATION.md show.

use std::fs;
use std::path::Path;

use petrel_engine::config::Config;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};

use super::{blocks, read};

/// The files that a configuration names, with something good in each.
fn make_files(folder: &Path, config: &str) {
    let names = config.split('"').skip(1).step_by(2);
    for name in names.map(|name| name.rsplit(' ').next().expect("a word")) {
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("written");
        match name.rsplit_once('.') {
            Some((_, "crl")) => write(name, &revoked(folder)),
            Some((_, "key")) => {
                let made =
                    rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("made");
                write(&name.replace(".key", ".pem"), &made.cert.pem());
                write(name, &made.signing_key.serialize_pem());
            }
            Some((_, "txt")) => write(name, "secret\n"),
            None if name == "users" => write(name, ""),
            _ => {}
        }
    }
    fs::write(folder.join("rules.toml"), "[[rule]]\nallow = \"both\"\ntopics = [\"#\"]\n")
        .expect("written");
}

/// An authority of devices in `devices-ca.pem`, and its list of revoked certificates.
fn revoked(folder: &Path) -> String {
    let mut params = CertificateParams::new([]).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("made");
    fs::write(folder.join("devices-ca.pem"), authority.pem()).expect("written");
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2999, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&Issuer::new(params, key)).expect("made").pem().expect("PEM")
}

#[test]
fn every_configuration_that_is_shown_is_good() {
    let mut count = 0;
    for page in ["README.md", "docs/CONFIGURATION.md"] {
        for shown in blocks(&read(page), "toml") {
            let folder = tempfile::tempdir().expect("a folder");
            make_files(folder.path(), shown);
            let place = |name: &str| folder.path().join(name);
            let text = if shown.starts_with("[[rule]]") {
                fs::write(place("rules.toml"), shown).expect("written");
                "[access]\nrules = \"rules.toml\"\n"
            } else {
                shown
            };
            fs::write(place("petrel.toml"), text).expect("written");
            let config = Config::load(&place("petrel.toml"));
            let config = config.unwrap_or_else(|error| panic!("{page}: {error}\n{shown}"));
            let rules =
                config.read_rules().unwrap_or_else(|error| panic!("{page}: {error}\n{shown}"));
            assert_eq!(rules.is_some(), text.contains("[access]"));
            count += 1;
        }
    }
    assert!(count >= 8, "{count}");
}
