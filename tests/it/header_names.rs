//! Records whose headers have names that are no text. No client library writes such a record, so it is written here byte by
//! byte (Kafka's protocol guide: Produce, version 3; record batch, magic 2).

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{KafkaBroker, Walpost, unique};

/// An array of bytes with its length in front, as records have it.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = i64::try_from(bytes.len()).unwrap();
    [varint(length), bytes.to_vec()].concat()
}

fn varint(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn count(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap().to_be_bytes()
}

/// A batch of one record with one header.
fn batch(value: &[u8], name: &[u8]) -> Vec<u8> {
    let header = [varint(1), sized(name), sized(b"1")].concat();
    // No attributes, no difference to the batch's time and offset, no key.
    let record = sized(&[&[0, 0, 0][..], &varint(-1), &sized(value), &header].concat());
    // No attributes, one record, times, no producer.
    let from_crc = [&[0; 6][..], &[0; 16], &[0xff; 14], &count(1), &record].concat();
    let from_epoch = [&[0xff; 4][..], &[2], &crc32c(&from_crc).to_be_bytes(), &from_crc].concat();
    [&[0; 8][..], &count(from_epoch.len()), &from_epoch].concat()
}

/// Writes the record to partition 0, and returns the broker's code.
async fn produce(brokers: &str, topic: &str, batch: &[u8]) -> i16 {
    let name = [&u16::try_from(topic.len()).unwrap().to_be_bytes()[..], topic.as_bytes()].concat();
    let partition = [&count(1)[..], &[0; 4], &count(batch.len()), batch].concat();
    // Produce in its version 3, with no client's name, no transaction, acks=all, and ten seconds of time.
    let head = [&[0, 0, 0, 3, 0, 0, 0, 7][..], &[0xff; 2], &[0xff; 2], &[0xff; 2], &count(10_000)].concat();
    let request = [head, count(1).to_vec(), name.clone(), partition].concat();
    let mut stream = TcpStream::connect(brokers).await.unwrap();
    stream.write_all(&[&count(request.len())[..], &request].concat()).await.unwrap();
    let length = stream.read_u32().await.unwrap();
    let mut answer = vec![0; length.try_into().unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    let code = 4 + 4 + name.len() + 4 + 4;
    i16::from_be_bytes([answer[code], answer[code + 1]])
}

#[tokio::test]
async fn a_header_whose_name_is_no_text_is_an_error_that_names_the_record() {
    let broker = KafkaBroker::shared().await;
    let topics = ["plain", "odd"].map(unique);
    for (topic, last) in topics.iter().zip([&b"b"[..], b"\xff\xfe"]) {
        broker.create_topic(topic, 1).await;
        for name in [&b"a"[..], "ü".as_bytes(), last] {
            assert_eq!(produce(broker.brokers(), topic, &batch(b"value", name)).await, 0);
        }
    }
    let verify = async |more: &[&str]| {
        let command = ["verify", &topics[0], &topics[1], "--brokers", broker.brokers()];
        let output = Walpost::with(command).args(more).output().await;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    };
    for more in [&[][..], &["--by-key"], &["--unordered"], &["--ignore-header", "b"]] {
        let (code, said) = verify(more).await;
        let place =
            format!("error: topic {}, partition 0, offset 2: a header's name is not UTF-8", topics[1]);
        assert!(
            code == Some(1) && said.contains(&place) && said.contains("\n  advice: "),
            "{more:?} {code:?}: {said}"
        );
        assert!(!said.contains("panic"), "{said}");
    }
    let (code, said) = verify(&["--limit", "2"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "equal: 2 records in 1 topic, 1 partition\n"));
}
