//! Key slots changed: passphrases added and taken away.

use std::sync::Arc;

use diskette_core::{
    AmendableFormat, OpenContext, OptionSpec, Options, Result, StorageExt, StorageMut,
};
use diskette_crypto::luks::{Amendment, KeySlots, slot_option_specs};

use crate::{FORMAT, Luks, SECRET};

impl AmendableFormat for Luks {
    fn amend_options(&self) -> &'static [OptionSpec] {
        slot_option_specs(false)
    }

    fn amend(
        &self,
        image: Arc<dyn StorageMut>,
        options: &Options,
        force: bool,
        cx: &OpenContext<'_>,
    ) -> Result<()> {
        if options.is_empty() {
            return Ok(());
        }
        options.expect_only(FORMAT, self.amend_options())?;
        let passphrase = cx.secrets.asked_for(FORMAT, cx.options, SECRET.name)?;
        let len = image.total_size()?;
        let amendment = Amendment {
            format: FORMAT,
            prefix: "",
            options,
            secrets: cx.secrets,
            force,
            limits: cx.limits,
        };
        amendment.apply(&mut KeySlots::open(image, 0, len)?, passphrase)
    }
}
