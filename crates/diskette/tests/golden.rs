//! What we say of the images in `testdata`, and their maps, held against the golden files beside them.

use diskette_testkit::golden::{check, describe, images};

#[test]
fn what_is_said_of_every_image_is_as_it_was() {
    let images = images();
    assert!(images.len() >= 20, "golden files were not found");
    for image in images {
        let said = diskette::open(&image).and_then(|chain| describe(&chain));
        let said = said.unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        check(&image, &said);
    }
}
