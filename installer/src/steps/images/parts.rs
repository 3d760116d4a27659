//! Which images are loaded side by side.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bundle_spec::{Manifest, Sha256};

use super::super::readers::readers;
use super::ImageWanted;

/// Images that are loaded one after the other, and the digests and sizes of what their layers unpack to.
#[derive(Default)]
struct Part {
    images: Vec<ImageWanted>,
    layers: BTreeMap<Sha256, u64>,
}

impl Part {
    fn take(&mut self, other: Self) {
        self.images.extend(other.images);
        self.layers.extend(other.layers);
    }

    fn bytes(&self) -> u64 {
        self.layers.values().sum()
    }
}

/// At most `most` parts of about the same size. Images with a layer in common, by what it unpacks to, are in the same part: a runtime stumbles over a layer that comes twice at
/// the same time (moby#9718, containerd#1240). No more of them than layers may be unpacked at once.
pub(super) fn side_by_side(
    manifest: &Manifest,
    images: &[ImageWanted],
    most: usize,
) -> Vec<Vec<ImageWanted>> {
    let mut families: Vec<Part> = Vec::new();
    let layers_of = |image: &ImageWanted| {
        let held = manifest.images.iter().find(|held| held.id == image.id);
        let layers = held.into_iter().flat_map(|held| &held.layers);
        layers.filter_map(|layer| manifest.blob(layer))
    };
    let most = most.min(readers(manifest.windows, images.iter().flat_map(layers_of)));
    for image in images {
        let own = Part {
            images: vec![image.clone()],
            layers: layers_of(image)
                .map(|layer| (layer.unpacked_digest, layer.unpacked_size))
                .collect(),
        };
        let is_related = |other: &Part| {
            let mut layers = other.layers.keys();
            layers.any(|layer| own.layers.contains_key(layer))
        };
        let (related, others): (Vec<_>, Vec<_>) = families.into_iter().partition(is_related);
        let mut family = Part::default();
        related
            .into_iter()
            .chain([own])
            .for_each(|part| family.take(part));
        families = others;
        families.push(family);
    }
    families.sort_by_key(|family| Reverse(family.bytes()));
    let mut parts: Vec<Part> = Vec::new();
    parts.resize_with(most.max(1), Part::default);
    for family in families {
        if let Some(least) = parts.iter_mut().min_by_key(|part| part.bytes()) {
            least.take(family);
        }
    }
    let parts = parts.into_iter().map(|part| part.images);
    parts.filter(|images| !images.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::super::testing::Pot;
    use super::*;

    /// Names of parts of a pot with these images: their names and layers.
    fn parts(images: &[(&str, &[&[u8]])], most: usize) -> Vec<Vec<String>> {
        let mut pot = Pot::default();
        let config = |name: &str| format!("{{\"{name}\":1}}");
        for (name, layers) in images {
            pot = pot.image(name, &config(name), layers);
        }
        let pot = pot.verified();
        let wanted = images.iter().map(|(name, _)| ImageWanted {
            id: Sha256::of(config(name).as_bytes()),
            names: vec![(*name).to_owned()],
        });
        let wanted: Vec<_> = wanted.collect();
        let name = |image: ImageWanted| image.names.concat();
        side_by_side(pot.manifest(), &wanted, most)
            .into_iter()
            .map(|part| part.into_iter().map(name).collect())
            .collect()
    }

    #[test]
    fn images_with_a_layer_in_common_stay_together_and_the_rest_is_shared_out() {
        let (base, large, small): (&[u8], &[u8], &[u8]) = (&[1; 9], &[2; 900], &[3; 500]);
        let images: [(&str, &[&[u8]]); 5] = [
            ("a:1", &[base, b"a"]),
            ("large:1", &[large]),
            ("b:1", &[b"only b", b"shared"]),
            ("small:1", &[small]),
            ("c:1", &[base, b"shared", b"c"]),
        ];
        let two = parts(&images, 2);
        assert_eq!(two[0], ["large:1"]);
        assert_eq!(two[1][0], "small:1");
        let family: BTreeSet<&str> = two[1][1..].iter().map(String::as_str).collect();
        assert_eq!(family, BTreeSet::from(["a:1", "b:1", "c:1"]), "{two:?}");
        let one = parts(&images, 1);
        assert_eq!((one.len(), one[0].len()), (1, 5));
    }

    #[test]
    fn there_are_no_empty_parts() {
        assert_eq!(parts(&[("a:1", &[b"a"])], 2), [["a:1"]]);
        assert!(parts(&[], 2).is_empty());
    }
}
