//! `clav whoami`: who the daemon takes the caller for.

use super::{
    Desk, Done,
    failure::exit_of,
    output::{facts, line, relative},
};

pub(super) async fn run(desk: &Desk) -> Done {
    let me = desk.workload().await?.whoami().await?;
    let exit = me.refused.as_ref().map_or(0, |refused| exit_of(&refused.code, 0));
    if desk.printed(&me)? {
        return Ok(exit);
    }
    let style = &desk.style;
    let text = |path: &str| me.attested.pointer(path).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let assurance = me.basis.as_ref().map_or_else(|| me.assurance.to_string(), |basis| format!("{} ({basis})", me.assurance));
    match (&me.identity, &me.refused) {
        (Some(identity), _) => facts(
            style,
            &[
                ("identity", format!("{} {}", style.green(identity.name.as_str()), style.dim(identity.kind.as_str()))),
                ("assurance", assurance),
                ("owner", identity.owner.clone()),
                ("environment", identity.environment.clone()),
                ("purposes", identity.purposes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
                ("at most", identity.max_sensitivity.to_string()),
                ("expires", format!("{} ({})", identity.expires, relative(&identity.expires))),
            ],
        )?,
        (None, refused) => {
            let why = refused.as_ref().map_or("", |refused| refused.message.as_str());
            facts(style, &[("identity", format!("{} {why}", style.red("none"))), ("assurance", assurance)])?;
        }
    }
    let spoke = if me.via_client { "the process that ran clav" } else { "clav itself" };
    facts(
        style,
        &[
            ("subject", format!("pid {} ({spoke})", text("/pid").unwrap_or_default())),
            ("program", text("/exe/path").unwrap_or_default()),
            ("unit", text("/unit/name").unwrap_or_default()),
        ],
    )?;
    for selector in &me.selectors {
        line(&format!("  {}", style.dim(selector)))?;
    }
    Ok(exit)
}
